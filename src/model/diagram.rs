//! Reads the diagrams of `ARCHITECTURE.md`, so that tests can hold them against the tables they show.

/// One arrow of a diagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrow {
    /// Where it begins.
    pub from: String,
    /// Where it ends.
    pub to: String,
    /// What is written at it, separated by commas.
    pub words: Vec<String>,
}

/// The arrows of the first diagram below the line that contains `title`.
pub fn arrows(title: &str) -> Vec<Arrow> {
    let text = include_str!("../../ARCHITECTURE.md");
    let (_, below) = text.split_once(title).unwrap_or_else(|| panic!("ARCHITECTURE.md does not say {title:?}"));
    let (_, diagram) = below.split_once("```mermaid\n").expect("a diagram");
    let (diagram, _) = diagram.split_once("```").expect("its end");
    diagram.lines().filter_map(arrow).collect()
}

fn arrow(line: &str) -> Option<Arrow> {
    let (arrow, words) = line.split_once(':').unwrap_or((line, ""));
    let (from, to) = arrow.split_once("-->").filter(|_| !arrow.contains("[*]"))?;
    let words = words.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    Some(Arrow { from: from.trim().to_owned(), to: to.trim().to_owned(), words })
}
