//! How far a build is, told from what apt and dpkg say. Lines go in, a stage and a share of the whole come out.

use std::fmt;

/// A part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Another process builds already.
    Waiting,
    /// Package lists are fetched.
    Lists,
    /// Packages of the base system are fetched.
    Fetching,
    /// They are unpacked.
    Unpacking,
    /// All packages are fetched and installed.
    Installing,
    /// The desktop's own files go in, traces of this machine out.
    Furnishing,
    /// The image is compressed.
    Packing,
    /// The image is there.
    Done,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting for another build",
            Self::Lists => "fetching package lists",
            Self::Fetching => "fetching the base system",
            Self::Unpacking => "unpacking the base system",
            Self::Installing => "installing the desktop",
            Self::Furnishing => "furnishing the desktop",
            Self::Packing => "packing the image",
            Self::Done => "image ready",
        })
    }
}

/// How far a build is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Share of the whole that is done, by experience; never goes back.
    pub percent: u8,
}

/// Follows a build.
#[derive(Debug)]
pub struct Tracker {
    stages: &'static [(Stage, u8)],
    stage: Stage,
    /// Steps of this stage that are done and that there are, as far as it is known.
    done: u32,
    total: u32,
    percent: u8,
}

impl Tracker {
    /// Before the first stage; `stages` has each stage's share of the time in percent.
    pub fn new(stages: &'static [(Stage, u8)]) -> Self {
        Self { stages, stage: Stage::Waiting, done: 0, total: 0, percent: 0 }
    }

    /// A stage begins.
    pub fn enter(&mut self, stage: Stage) -> Progress {
        if self.stage != stage {
            (self.stage, self.done, self.total) = (stage, 0, 0);
        }
        self.progress()
    }

    /// The builder said something; an empty line tells only that time has passed.
    pub fn line(&mut self, line: &str) -> Progress {
        match line.strip_prefix("I: ") {
            Some("downloading packages with apt...") => return self.enter(Stage::Fetching),
            Some("extracting archives...") => return self.enter(Stage::Unpacking),
            Some("installing essential packages...") => return self.enter(Stage::Installing),
            _ => {}
        }
        // Steps: fetched, unpacked, set up. The base system, a third of all, was fetched in a stage of its own.
        if let Some(count) = line.split_once(" newly installed").and_then(|(before, _)| last_number(before)) {
            self.total += count * if self.stage == Stage::Fetching { 1 } else { 3 };
        } else if ["Get:", "Unpacking ", "Setting up "].iter().any(|step| line.starts_with(step)) {
            self.done += 1;
        }
        self.progress()
    }

    fn progress(&mut self) -> Progress {
        let before = self.stages.iter().take_while(|(stage, _)| *stage != self.stage);
        let before: u32 = before.map(|(_, share)| u32::from(*share)).sum();
        let share = self.stages.iter().find(|(stage, _)| *stage == self.stage).map_or(0, |(_, share)| *share);
        let inside = (u32::from(share) * self.done.min(self.total)).checked_div(self.total).unwrap_or(0);
        let percent = u8::try_from(before + inside).unwrap_or(100).min(100);
        self.percent = self.percent.max(percent);
        Progress { stage: self.stage, percent: self.percent }
    }
}

fn last_number(text: &str) -> Option<u32> {
    text.split(' ').next_back()?.parse().ok()
}

/// What an administrator needs of the last lines of a builder that failed: its errors, else just the end.
pub fn complaint(lines: &[String]) -> String {
    let errors: Vec<_> = lines.iter().filter(|line| line.starts_with("E: ") || line.contains("error")).collect();
    let chosen = if errors.is_empty() { lines.iter().collect() } else { errors };
    let chosen: Vec<_> = chosen.iter().rev().take(4).rev().map(|line| line.as_str()).collect();
    chosen.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::image::recipe::STAGES;

    #[test]
    fn a_build_goes_through_all_stages_and_never_back() {
        let said = "I: running apt-get update...\n\
                    Get:1 http://mirror.example/debian trixie InRelease [151 kB]\n\
                    I: downloading packages with apt...\n\
                    0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.\n\
                    Get:1 http://mirror.example/debian trixie/main amd64 libc6 amd64 2.36 [2759 kB]\n\
                    Get:2 http://mirror.example/debian trixie/main amd64 bash amd64 5.2 [1491 kB]\n\
                    I: extracting archives...\n\
                    I: installing essential packages...\n\
                    I: installing remaining packages inside the chroot...\n\
                    0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.\n\
                    Get:1 http://mirror.example/debian trixie/main amd64 jwm amd64 2.4 [200 kB]\n\
                    Unpacking jwm (2.4) ...\n\
                    Setting up jwm (2.4) ...\n\
                    I: success in 30 seconds";
        let mut tracker = Tracker::new(STAGES);
        let mut seen = vec![tracker.enter(Stage::Lists)];
        seen.extend(said.lines().map(|line| tracker.line(line)));
        seen.extend([Stage::Furnishing, Stage::Packing, Stage::Done].map(|stage| tracker.enter(stage)));
        assert!(seen.is_sorted_by_key(|progress| progress.percent), "{seen:?}");
        let mut stages: Vec<_> = seen.iter().map(|progress| progress.stage).collect();
        stages.dedup();
        assert_eq!(
            stages,
            [
                Stage::Lists,
                Stage::Fetching,
                Stage::Unpacking,
                Stage::Installing,
                Stage::Furnishing,
                Stage::Packing,
                Stage::Done
            ]
        );
        assert_eq!(seen[6], Progress { stage: Stage::Fetching, percent: 15 });
        assert_eq!(seen.last().unwrap().percent, 100);
    }

    #[test]
    fn an_error_says_what_apt_complained_about() {
        let lines = ["Reading package lists...", "E: Unable to locate package jwm", "I: removing tempdir"];
        assert_eq!(complaint(&lines.map(str::to_owned)), "E: Unable to locate package jwm");
        assert_eq!(complaint(&["Killed".to_owned()]), "Killed");
    }
}
