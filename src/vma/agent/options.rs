//! The options file of nxagent: one line, made from the parameters of a connection. nxagent reads it when it starts and
//! at every resume. Side channels (audio, printing, slave) are not asked for here.

use thiserror::Error;

use super::{config::Settings, parameters::Parameters};

/// A parameter that could smuggle further options into the file.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("invalid characters in parameter {0}")]
pub struct InvalidCharacters(String);

const MAPPED: [(&str, &str); 5] = [
    ("keyboard", "qvd.client.keyboard"),
    ("client", "qvd.client.os"),
    ("link", "qvd.client.link"),
    ("geometry", "qvd.client.geometry"),
    ("fullscreen", "qvd.client.fullscreen"),
];

const EXTRA: &str = "qvd.client.nxagent.extra_args";

/// The contents of the file.
pub fn render(parameters: &Parameters, settings: &Settings) -> Result<String, InvalidCharacters> {
    let mut line = String::from("nx/nx");
    for (option, name) in MAPPED {
        let Some(value) = value(name, parameters, settings) else { continue };
        if !is_plain(value) {
            return Err(InvalidCharacters(name.to_owned()));
        }
        line.push_str(&format!(",{option}={value}"));
    }
    if !settings.tolerance_checks.is_empty() {
        line.push_str(&format!(",tolerancechecks={}", settings.tolerance_checks));
    }
    if let Some(extra) = value(EXTRA, parameters, settings) {
        // Raw text is what this parameter is for, but it must not end the line or the list of options.
        if extra.chars().any(|c| c.is_control() || c == ':') {
            return Err(InvalidCharacters(EXTRA.to_owned()));
        }
        line.push_str(&format!(",{}", extra.trim_start_matches(',')));
    }
    line.push_str(&format!(":{}\n", settings.display));
    Ok(line)
}

/// Whether a value has no meaning of its own to nxagent, a shell or `timedatectl`.
pub fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_/+-".contains(&byte))
}

fn value<'a>(name: &str, parameters: &'a Parameters, settings: &'a Settings) -> Option<&'a str> {
    parameters.get(name).or_else(|| settings.parameter_default(name)).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        Parameters::new(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn options_come_from_parameters_and_their_defaults() {
        let settings = Settings::from_text("vma.default.qvd.client.link = lan").unwrap();
        let sent =
            parameters(&[("qvd.client.keyboard", "pc105/es"), ("qvd.client.geometry", ""), ("qvd.client.os", "linux")]);
        let line = render(&sent, &settings).unwrap();
        assert_eq!(line, "nx/nx,keyboard=pc105/es,client=linux,link=lan,tolerancechecks=risky:100\n");
    }

    #[test]
    fn raw_options_are_appended_as_they_are() {
        let settings = Settings::from_text("").unwrap();
        let line = render(&parameters(&[(EXTRA, "clipboard=none,shadow=0")]), &settings).unwrap();
        assert_eq!(line, "nx/nx,tolerancechecks=risky,clipboard=none,shadow=0:100\n");
    }

    #[test]
    fn what_could_be_more_than_a_value_is_refused_by_name() {
        let settings = Settings::from_text("").unwrap();
        let error = render(&parameters(&[("qvd.client.link", "lan,accept=x")]), &settings).unwrap_err();
        assert_eq!(error.to_string(), "invalid characters in parameter qvd.client.link");
        assert!(render(&parameters(&[(EXTRA, "a=b:100\n")]), &settings).is_err());
    }

    proptest! {
        #[test]
        fn a_file_is_always_one_line_for_our_display(value in ".*", extra in ".*") {
            let settings = Settings::from_text("").unwrap();
            if let Ok(line) = render(&parameters(&[("qvd.client.os", &value), (EXTRA, &extra)]), &settings) {
                prop_assert_eq!(line.lines().count(), 1);
                prop_assert_eq!(line.matches(':').count(), 1);
                prop_assert!(line.ends_with(":100\n"));
            }
        }
    }
}
