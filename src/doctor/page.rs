//! The findings as a page for people.

use std::fmt::Write as _;

use super::{
    Report,
    finding::{Finding, Grade},
};

const GRADES: usize = 9;
const NAMES: usize = 16;
/// Where the reason and the command begin: below the name.
const INDENT: usize = GRADES + 3;

/// How a page is set.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Columns.
    pub width: usize,
    /// Whether it has any.
    pub colours: bool,
    /// Whether reasons are given for what is good, too.
    pub explain: bool,
}

/// The page. Commands are not broken into lines, so that they can be copied.
pub fn page(report: &Report, style: Style) -> String {
    let mut page = String::new();
    for section in &report.sections {
        let _ = writeln!(page, "{}", paint(section.title, "1", style));
        for finding in &section.findings {
            set(&mut page, finding, style);
        }
        page.push('\n');
    }
    let count = |grade| report.findings().filter(|finding| finding.grade == grade).count();
    let (bad, tolerable, good) = (count(Grade::Bad), count(Grade::Tolerable), count(Grade::Good));
    let verdict = match (bad, tolerable) {
        (0, 0) => "this machine can be a node.",
        (0, _) => "this machine can be a node, and could be a better one.",
        _ => "this machine cannot be a node as it is.",
    };
    let _ = writeln!(page, "{bad} bad, {tolerable} tolerable, {good} good: {}", paint(verdict, "1", style));
    page
}

fn set(page: &mut String, finding: &Finding, style: Style) {
    let colour = match finding.grade {
        Grade::Good => "32",
        Grade::Tolerable => "1;33",
        Grade::Bad => "1;31",
    };
    let grade = paint(&format!("{:GRADES$}", finding.grade), colour, style);
    let begin = INDENT + NAMES + 2;
    let mut lines = wrapped(&finding.found, style.width.saturating_sub(begin)).into_iter();
    let _ = writeln!(page, " {grade}  {:NAMES$}  {}", finding.name, lines.next().unwrap_or_default());
    lines.for_each(|line| _ = writeln!(page, "{:begin$}{line}", ""));
    if finding.grade != Grade::Good || style.explain {
        for line in wrapped(finding.why, style.width.saturating_sub(INDENT)) {
            let _ = writeln!(page, "{:INDENT$}{line}", "");
        }
    }
    if let Some(mend) = &finding.mend {
        let _ = writeln!(page, "{:INDENT$}{} {mend}", "", paint("mend:", "1", style));
    }
}

fn paint(text: &str, colour: &str, style: Style) -> String {
    if style.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Lines of at most `width` characters, but for words that are longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Section, finding::Subject},
        *,
    };

    const STYLE: Style = Style { width: 60, colours: false, explain: false };

    fn report() -> Report {
        let [name, other] = ["overlayfs", "kernel TLS"]
            .map(|name| Subject { name, why: "The root of a container is an image with a layer above." });
        let findings = vec![
            name.good("a layer was mounted"),
            other.bad(
                "one could not be mounted for a reason that fills lines",
                "a command that is longer than the page is wide, which is left whole",
            ),
        ];
        Report { node: None, sections: vec![Section { title: "Kernel", findings }] }
    }

    #[test]
    fn a_page_has_lines_for_what_is_good_and_reason_and_command_for_what_is_not() {
        let expected = "\
Kernel
 good       overlayfs         a layer was mounted
 bad        kernel TLS        one could not be mounted for a
                              reason that fills lines
            The root of a container is an image with a layer
            above.
            mend: a command that is longer than the page is wide, which is left whole

1 bad, 0 tolerable, 1 good: this machine cannot be a node as it is.
";
        assert_eq!(page(&report(), STYLE), expected);
        let explained = page(&report(), Style { explain: true, ..STYLE });
        assert_eq!(explained.matches("The root of a container").count(), 2);
    }

    #[test]
    fn colours_add_nothing_but_colours() {
        let coloured = page(&report(), Style { colours: true, ..STYLE });
        assert!(coloured.contains("\x1b[1;31mbad      \x1b[0m"), "{coloured:?}");
        let mut plain = coloured;
        for colour in ["\x1b[1m", "\x1b[32m", "\x1b[1;31m", "\x1b[0m"] {
            plain = plain.replace(colour, "");
        }
        assert_eq!(plain, page(&report(), STYLE));
    }
}
