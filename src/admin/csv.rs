//! Rows as comma-separated values (RFC 4180), for spreadsheets and other programs.

use std::{
    borrow::Cow,
    io::{self, Write},
};

/// With these, also in their full-width forms, spreadsheets let a formula begin.
const FORMULAS: [char; 8] = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];

/// Writes one line.
///
/// # Errors
/// It cannot be written.
pub fn line<'a>(out: &mut impl Write, fields: impl Iterator<Item = &'a str>) -> io::Result<()> {
    for (at, field) in fields.enumerate() {
        let separator = if at == 0 { "" } else { "," };
        match field.contains([',', '"', '\n', '\r']) {
            true => write!(out, "{separator}\"{}\"", field.replace('"', "\"\""))?,
            false => write!(out, "{separator}{field}")?,
        }
    }
    out.write_all(b"\r\n")
}

/// A field that a spreadsheet takes for text or a number and never for a formula: one that could be is led by an apostrophe.
#[must_use]
pub fn without_formula(field: &str) -> Cow<'_, str> {
    let formula = field.trim_start().starts_with(FORMULAS) || field.starts_with(['\t', '\r', '\n']);
    if formula && field.parse::<f64>().is_err() { Cow::Owned(format!("'{field}")) } else { Cow::Borrowed(field) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_with_signs_of_the_format_are_quoted() {
        let mut out = Vec::new();
        line(&mut out, ["a", "", "b,c", "d\"e", "f\ng"].into_iter()).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a,,\"b,c\",\"d\"\"e\",\"f\ng\"\r\n");
    }

    #[test]
    fn no_field_is_a_formula_and_numbers_stay_numbers() {
        for formula in ["=1+1", "+1+1", "-1+1", "@SUM(A1)", " =1", "\t=1", "\rx", "＝1", "-2+cmd|' /C calc'!A0"] {
            assert_eq!(without_formula(formula), format!("'{formula}"));
        }
        for harmless in ["", "-1", "+5", "-0.5", "a=b", "alice@school", "{\"a\": \"=1\"}", "2026-11-27 03:00:00"] {
            assert_eq!(without_formula(harmless), harmless);
        }
    }
}
