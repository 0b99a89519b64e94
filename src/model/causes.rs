//! How an error is told where there is one line for it: in the log, in the database, on a page.

use std::error::Error;

/// An error with its causes, each once: some say theirs themselves.
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !said.contains(&words) {
            said = format!("{said}: {words}");
        }
        cause = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use std::io;

    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("{said}")]
    struct Failure {
        said: &'static str,
        source: io::Error,
    }

    #[test]
    fn causes_follow_their_error_unless_it_names_them() {
        let of = |said| in_one_line(&Failure { said, source: io::Error::other("the disk is full") });
        assert_eq!(of("cannot write"), "cannot write: the disk is full");
        assert_eq!(of("cannot write, the disk is full"), "cannot write, the disk is full");
    }
}
