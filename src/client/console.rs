//! Talking with the user: progress on stderr, results on stdout, questions on the terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use super::{
    session::Server,
    trust::{Finding, Scope},
};

/// Where the user sits.
pub trait Console {
    /// Shows a line about what is going on.
    fn say(&self, line: &str);

    /// Prints a result.
    fn print(&self, text: &str);

    /// Whether there is somebody to answer questions.
    fn interactive(&self) -> bool;

    /// Asks for a line.
    ///
    /// # Errors
    /// When nobody answers.
    fn ask(&self, prompt: &str) -> io::Result<String>;

    /// Asks for a line that is not shown while it is typed.
    ///
    /// # Errors
    /// When nobody answers.
    fn ask_hidden(&self, prompt: &str) -> io::Result<String>;
}

/// The terminal of this process. Questions block the thread: nothing else goes on while one is open.
#[derive(Clone, Copy, Debug)]
pub struct Terminal;

impl Console for Terminal {
    fn say(&self, line: &str) {
        eprintln!("{}", printable(line));
    }

    fn print(&self, text: &str) {
        // A reader that has seen enough (`| head`) is no error.
        let _ = writeln!(io::stdout(), "{text}");
    }

    fn interactive(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    fn ask(&self, prompt: &str) -> io::Result<String> {
        eprint!("{}", printable(prompt));
        io::stderr().flush()?;
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim().to_owned())
    }

    fn ask_hidden(&self, prompt: &str) -> io::Result<String> {
        rpassword::prompt_password(printable(prompt))
    }
}

/// What comes from a server must not steer the user's terminal.
fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n', " ")
}

/// Shows a certificate that cannot be verified and asks what to do; `None` is no.
pub(super) fn ask_consent(finding: &Finding, server: &Server, console: &impl Console) -> Option<Scope> {
    console.say(&format!("The identity of {server} cannot be verified:"));
    for problem in finding.problems() {
        console.say(&format!("  - {problem}"));
    }
    console.say(&format!("  certificate of: {}", finding.subject));
    console.say(&format!("  SHA-256:        {}", finding.grouped_fingerprint()));
    if !console.interactive() {
        return None;
    }
    loop {
        let answer =
            console.ask("Compare the fingerprint with your administrator's. Trust it? [no/once/always] ").ok()?;
        match answer.to_ascii_lowercase().as_str() {
            "always" | "a" => return Some(Scope::Always),
            "once" | "o" => return Some(Scope::Once),
            "no" | "n" | "" => return None,
            _ => {}
        }
    }
}
