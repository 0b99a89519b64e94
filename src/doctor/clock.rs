//! Whether the machine knows what time it is, and how far its clock is from the database's.

use std::time::Duration;

use super::{
    adjtimex::Kept,
    finding::{Finding, Subject},
};

const CLOCK: Subject = Subject {
    name: "clock",
    why: "Certificates, one-time passwords and expirations go by it. Who lives and who is dead does not.",
};
const APART: Subject = Subject {
    name: "database's clock",
    why: "Expirations go by the database's clock, one-time passwords by the router's.",
};

/// One-time passwords change every 30 s.
const FAR: f64 = 30.0;
const NEAR: f64 = 2.0;

const CHRONY: &str = "apt-get install chrony";

/// Judges it. `ahead`: seconds that the database's clock is ahead, and what may be wrong with that.
pub fn judge(kept: Kept, ahead: Option<(f64, Duration)>) -> Vec<Finding> {
    let mut findings = vec![match kept {
        Kept::Within(error) => CLOCK.good(format!("kept right, within {} ms", error.as_millis())),
        Kept::Free => CLOCK.tolerable("nobody keeps it right", CHRONY),
        Kept::Unknown => CLOCK.tolerable("the kernel does not say whether somebody keeps it right", CHRONY),
    }];
    if let Some((ahead, doubt)) = ahead {
        let found = match ahead.abs() {
            small if small < 0.01 => "the same as ours".to_owned(),
            seconds => format!("{seconds:.2} s {} ours", if ahead > 0.0 { "ahead of" } else { "behind" }),
        };
        findings.push(match ahead.abs() - doubt.as_secs_f64() {
            far if far > FAR => APART.bad(found, CHRONY),
            some if some > NEAR => APART.tolerable(found, CHRONY),
            _ => APART.good(found),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Grade::*, *};

    #[test]
    fn clocks_may_differ_by_what_nobody_notices() {
        let quick = Duration::from_millis(1);
        for (ahead, doubt, grade) in [
            (0.0, quick, Good),
            (-1.9, quick, Good),
            (5.0, quick, Tolerable),
            (5.0, Duration::from_secs(4), Good),
            (-31.0, quick, Bad),
        ] {
            assert_eq!(judge(Kept::Free, Some((ahead, doubt)))[1].grade, grade, "{ahead}");
        }
        assert!(judge(Kept::Unknown, Some((-31.0, quick)))[1].found.contains("31.00 s behind ours"));
    }

    #[test]
    fn a_clock_that_nobody_keeps_right_is_tolerable() {
        assert_eq!(judge(Kept::Within(Duration::from_millis(3)), None)[0].grade, Good);
        assert_eq!(judge(Kept::Free, None).iter().map(|finding| finding.grade).collect::<Vec<_>>(), [Tolerable]);
    }
}
