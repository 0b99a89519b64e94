//! Reads `key = value` files in the form of Java properties, as classic QVD writes them.
//!
//! `#` and `!` start comment lines; `=`, `:` or white space end a key; `\` at the end of a line continues it on the
//! next, whose leading white space is dropped; `\n`, `\t`, `\r`, `\f`, `\uXXXX` and `\<any>` are escapes.

use thiserror::Error;

/// One setting and the line on which it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Line number from 1.
    pub line: usize,
    /// Unescaped key.
    pub key: String,
    /// Unescaped value.
    pub value: String,
}

/// A line that cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line}: {problem}")]
pub struct SyntaxError {
    /// Line number from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Reads a whole file. The last of several settings of one key wins, but all are returned, in order.
pub fn parse(text: &str) -> Result<Vec<Property>, SyntaxError> {
    let mut properties = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, first)) = lines.next() {
        let line = index + 1;
        let first = first.trim_start();
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = String::from(first);
        while continues(&logical) {
            logical.pop();
            match lines.next() {
                Some((_, next)) => logical.push_str(next.trim_start()),
                None => break,
            }
        }
        let (key, value) = split(&logical);
        let key = unescape(key).map_err(|problem| SyntaxError { line, problem })?;
        let value = unescape(value).map_err(|problem| SyntaxError { line, problem })?;
        if key.is_empty() {
            return Err(SyntaxError { line, problem: "a value without a key; write `key = value`" });
        }
        properties.push(Property { line, key, value: value.trim_end().to_owned() });
    }
    Ok(properties)
}

fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && (c == '=' || c == ':' || c.is_whitespace());
        escaped = c == '\\' && !escaped;
        ends
    });
    let Some(end) = end else { return (line, "") };
    let rest = line[end..].trim_start();
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (&line[..end], rest.trim_start())
}

fn unescape(text: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let code = (digits.len() == 4).then(|| u32::from_str_radix(&digits, 16).ok()).flatten();
                let code = code.ok_or("\\u wants four hexadecimal digits")?;
                out.push(char::from_u32(code).ok_or("\\u names no character")?);
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().map(|p| (p.key, p.value)).collect()
    }

    #[test]
    fn comments_blanks_and_every_separator_are_understood() {
        let text = "# c\n! c\n\n a = 1\nb:2\nc 3 \nd\ne=x=y\n";
        let expected = [("a", "1"), ("b", "2"), ("c", "3"), ("d", ""), ("e", "x=y")];
        assert_eq!(pairs(text), expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn a_backslash_continues_a_line_and_line_numbers_count_the_first() {
        let read = parse("\nkey = a,\\\n   b\nlast = 1\\\\\n").unwrap();
        assert_eq!(read[0], Property { line: 2, key: "key".into(), value: "a,b".into() });
        assert_eq!(read[1], Property { line: 4, key: "last".into(), value: "1\\".into() });
    }

    #[test]
    fn a_line_that_cannot_be_read_names_its_number() {
        assert_eq!(parse("a=1\n=2").unwrap_err().line, 2);
        assert_eq!(parse("a=\\u12").unwrap_err().to_string(), "line 1: \\u wants four hexadecimal digits");
    }
}
