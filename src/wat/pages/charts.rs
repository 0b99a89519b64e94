//! Figures as they are drawn: shares of a ring, and bars of an hour, as numbers for SVG attributes. What a picture says is also
//! there as text. Nothing is asked here.

use std::time::Duration;

/// How wide and high the picture of an hour is, in its own units.
pub const WIDTH: f64 = 240.0;
pub const HEIGHT: f64 = 60.0;
/// Between two bars.
const GAP: f64 = 1.0;

/// Shares of a whole.
pub struct Ring {
    pub title: &'static str,
    pub total: i64,
    pub shares: Vec<Share>,
}

/// A share. Its length and where it begins are in percent of the ring.
#[derive(Debug, PartialEq)]
pub struct Share {
    pub title: &'static str,
    pub href: String,
    pub count: i64,
    /// What kind of news it is.
    pub class: &'static str,
    pub length: String,
    pub rest: String,
    pub begin: String,
}

/// A share before it is known of how much.
pub struct Part {
    pub title: &'static str,
    pub href: String,
    pub count: i64,
    pub class: &'static str,
}

impl Ring {
    pub fn new(title: &'static str, parts: Vec<Part>) -> Self {
        let total: i64 = parts.iter().map(|part| part.count).sum();
        let percent = |count: i64| if total == 0 { 0.0 } else { count as f64 * 100.0 / total as f64 };
        let mut before = 0;
        let shares = parts.into_iter().map(|part| {
            let (begin, length) = (percent(before), percent(part.count));
            before += part.count;
            Share {
                title: part.title,
                href: part.href,
                count: part.count,
                class: part.class,
                length: number(length),
                rest: number(100.0 - length),
                begin: number(-begin),
            }
        });
        Self { title, shares: shares.collect(), total }
    }
}

/// A figure for each minute of an hour.
pub struct Hour {
    pub title: &'static str,
    /// What it is known by on its page.
    pub name: &'static str,
    /// What the picture shows, in a sentence.
    pub said: String,
    pub bars: Vec<Bar>,
    /// What the highest bar stands for.
    pub most: String,
}

/// A minute.
#[derive(Debug, PartialEq)]
pub struct Bar {
    pub minute: String,
    pub text: String,
    pub x: String,
    pub y: String,
    pub width: String,
    pub height: String,
}

/// The bars of minutes: each a time, a figure and the figure as text.
pub fn bars(minutes: &[(String, f64, String)]) -> Vec<Bar> {
    let most = minutes.iter().map(|(_, figure, _)| *figure).fold(0.0, f64::max);
    let step = WIDTH / minutes.len().max(1) as f64;
    let bar = |(at, (minute, figure, text)): (usize, &(String, f64, String))| {
        let height = if most > 0.0 { figure / most * HEIGHT } else { 0.0 };
        // What is not nothing is seen.
        let height = if *figure > 0.0 { height.max(1.0) } else { 0.0 };
        Bar {
            minute: minute.clone(),
            text: text.clone(),
            x: number(at as f64 * step),
            y: number(HEIGHT - height),
            width: number(step - GAP),
            height: number(height),
        }
    };
    minutes.iter().enumerate().map(bar).collect()
}

/// How full something is, and whether that is news.
pub struct Level {
    pub percent: i64,
    pub class: &'static str,
}

impl Level {
    pub fn of(share: f64) -> Self {
        let percent = (share.clamp(0.0, 1.0) * 100.0).round() as i64;
        let class = match percent {
            ..75 => "good",
            75..90 => "busy",
            _ => "bad",
        };
        Self { percent, class }
    }
}

/// In milliseconds, as exactly as it matters.
pub fn milliseconds(took: Duration) -> String {
    let ms = took.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_a_ring_follow_each_other_and_nothing_has_no_share() {
        let part = |count| Part { title: "x", href: String::new(), count, class: "good" };
        let ring = Ring::new("VMs", vec![part(1), part(0), part(2), part(1)]);
        let drawn: Vec<_> = ring.shares.iter().map(|share| (share.length.as_str(), share.begin.as_str())).collect();
        assert_eq!((ring.total, drawn), (4, vec![("25", "0"), ("0", "-25"), ("50", "-25"), ("25", "-75")]));
        let nothing = Ring::new("VMs", vec![part(0)]);
        assert_eq!((nothing.total, nothing.shares[0].length.as_str()), (0, "0"));
    }

    #[test]
    fn the_highest_bar_fills_the_picture_and_what_is_small_is_seen() {
        let minute = |figure: f64| ("03:00".to_owned(), figure, String::new());
        let drawn = bars(&[minute(0.0), minute(1000.0), minute(1.0), minute(500.0)]);
        let heights: Vec<_> = drawn.iter().map(|bar| (bar.height.as_str(), bar.y.as_str())).collect();
        assert_eq!(heights, [("0", "60"), ("60", "0"), ("1", "59"), ("30", "30")]);
        assert_eq!(drawn[3].x, "180");
        assert_eq!(bars(&[minute(0.0)])[0].height, "0");
    }

    #[test]
    fn a_level_is_a_share_that_is_news_when_little_is_left() {
        let of = |share| (Level::of(share).percent, Level::of(share).class);
        assert_eq!(
            [of(-1.0), of(0.744), of(0.75), of(0.9), of(7.0)],
            [(0, "good"), (74, "good"), (75, "busy"), (90, "bad"), (100, "bad")]
        );
    }
}
