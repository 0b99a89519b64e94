//! What is said of one thing that a node stands on.

use std::fmt;

use serde::Serialize;

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Good,
    /// A node works, but less well than it could.
    Tolerable,
    /// A node does not work, or not safely.
    Bad,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "good",
            Self::Tolerable => "tolerable",
            Self::Bad => "bad",
        })
    }
}

/// One line of the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub grade: Grade,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: &'static str,
    /// A command that mends it, to be adapted where it has an ellipsis; none where all is well.
    pub mend: Option<String>,
}

/// Something that is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// Its name, of at most 16 characters.
    pub name: &'static str,
    /// Why it matters.
    pub why: &'static str,
}

impl Subject {
    pub fn good(self, found: impl Into<String>) -> Finding {
        self.finding(Grade::Good, found.into(), None)
    }

    pub fn tolerable(self, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        self.finding(Grade::Tolerable, found.into(), Some(mend.into()))
    }

    pub fn bad(self, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        self.finding(Grade::Bad, found.into(), Some(mend.into()))
    }

    /// Of the grade that was given, whatever it is.
    pub fn graded(self, grade: Grade, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        let mend = (grade != Grade::Good).then(|| mend.into());
        self.finding(grade, found.into(), mend)
    }

    fn finding(self, grade: Grade, found: String, mend: Option<String>) -> Finding {
        Finding { name: self.name, grade, found, why: self.why, mend }
    }
}

/// The command that sets a kernel parameter now and at every boot.
pub fn sysctl(parameter: &str, value: u64) -> String {
    format!("sysctl -w {parameter}={value} >> /etc/sysctl.d/qvd.conf")
}
