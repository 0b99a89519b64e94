//! What a viewer says in RFB (RFC 6143): read message by message, so that one who only looks does nothing. The bytes come in
//! pieces of any length. What is not understood ends the conversation: nobody could say where the next message begins.
//!
//! ```text
//! Version ──► Security ──► (Response) ──► Init ──► Messages
//! ```

use serde::Deserialize;
use thiserror::Error;

/// What a viewer may do.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Look.
    Watch,
    /// Also move, type and paste.
    Interactive,
}

/// Why the conversation is over.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Nonsense {
    /// Not RFB, or one before version 3.7, in which the server decides what follows.
    #[error("the viewer speaks no RFB 3.7 or 3.8")]
    Version,
    /// Ways to log in that are no business of ours.
    #[error("the viewer wants security type {0}")]
    Security(u8),
    /// A message that we do not know.
    #[error("the viewer sends a message of type {0}")]
    Message(u8),
    /// A message that is too long.
    #[error("the viewer sends a message of {0} bytes")]
    Length(usize),
}

/// What is pasted is no longer, as x11vnc has it.
const LONGEST: usize = 1 << 20;

/// Reads what a viewer says.
#[derive(Debug)]
pub struct Viewer {
    mode: Mode,
    stage: Stage,
    /// The beginning of a message, too little of it to know how long it is.
    begun: Vec<u8>,
    /// How much is still to come of a message whose beginning is known, and whether it passes.
    rest: usize,
    passes: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Version,
    Security,
    Response,
    Init,
    Messages,
}

/// What is known of a message.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    /// So many bytes are needed to know more.
    Needs(usize),
    /// So long it is; whether it passes, and what comes after it.
    Is { length: usize, passes: bool, then: Stage },
}

impl Viewer {
    pub fn new(mode: Mode) -> Self {
        Self { mode, stage: Stage::Version, begun: Vec::new(), rest: 0, passes: false }
    }

    /// What the server gets to hear of the next bytes.
    ///
    /// # Errors
    /// They are not understood, so nothing after them can be.
    pub fn hear(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, Nonsense> {
        let mut heard = Vec::with_capacity(bytes.len());
        loop {
            let (now, later) = bytes.split_at(self.rest.min(bytes.len()));
            if self.passes {
                heard.extend_from_slice(now);
            }
            self.rest -= now.len();
            bytes = later;
            if self.rest > 0 {
                return Ok(heard);
            }
            match self.head()? {
                Head::Needs(_) if bytes.is_empty() => return Ok(heard),
                Head::Needs(needed) => {
                    let missing = needed.saturating_sub(self.begun.len());
                    let (now, later) = bytes.split_at(missing.min(bytes.len()));
                    self.begun.extend_from_slice(now);
                    bytes = later;
                }
                Head::Is { length, passes, then } => {
                    self.rest = length.saturating_sub(self.begun.len());
                    self.passes = passes;
                    self.stage = then;
                    if passes {
                        heard.append(&mut self.begun);
                    }
                    self.begun.clear();
                }
            }
        }
    }

    fn head(&self) -> Result<Head, Nonsense> {
        let greeting = |length, then| Ok(Head::Is { length, passes: true, then });
        match (self.stage, self.begun.as_slice()) {
            (Stage::Version, begun) if begun.len() < VERSIONS[0].len() => Ok(Head::Needs(VERSIONS[0].len())),
            (Stage::Version, begun) if VERSIONS.contains(&begun) => greeting(begun.len(), Stage::Security),
            (Stage::Version, _) => Err(Nonsense::Version),
            (Stage::Security, [1, ..]) => greeting(1, Stage::Init),
            // A password, as a response to a challenge.
            (Stage::Security, [2, ..]) => greeting(1, Stage::Response),
            (Stage::Security, [other, ..]) => Err(Nonsense::Security(*other)),
            (Stage::Response, [_, ..]) => greeting(16, Stage::Init),
            (Stage::Init, [_, ..]) => greeting(1, Stage::Messages),
            (_, []) => Ok(Head::Needs(1)),
            (Stage::Messages, message) => self.message(message),
        }
    }

    fn message(&self, begun: &[u8]) -> Result<Head, Nonsense> {
        let number = |at: usize| usize::from(begun[at]) << 8 | usize::from(begun[at + 1]);
        let acts = self.mode == Mode::Interactive;
        let (needed, length, passes): (usize, &dyn Fn() -> usize, bool) = match begun[0] {
            // SetPixelFormat, SetEncodings, FramebufferUpdateRequest, EnableContinuousUpdates, Fence.
            0 => (1, &|| 20, true),
            2 => (4, &|| 4 + 4 * number(2), true),
            3 | 150 => (1, &|| 10, true),
            248 => (9, &|| 9 + usize::from(begun[8]), true),
            // KeyEvent, PointerEvent, QEMU's KeyEvent.
            4 => (1, &|| 8, acts),
            5 => (1, &|| 6, acts),
            255 => match begun.get(1) {
                Some(0) | None => (2, &|| 12, acts),
                Some(_) => return Err(Nonsense::Message(255)),
            },
            // ClientCutText; the length of an extended one is negative.
            6 => (
                8,
                &|| {
                    8 + u32::from_be_bytes([begun[4], begun[5], begun[6], begun[7]]).cast_signed().unsigned_abs()
                        as usize
                },
                acts,
            ),
            // SetDesktopSize.
            251 => (8, &|| 8 + 16 * usize::from(begun[6]), acts),
            // xvp, by which machines are shut down: that is done by other means.
            250 => (1, &|| 4, false),
            other => return Err(Nonsense::Message(other)),
        };
        if begun.len() < needed {
            return Ok(Head::Needs(needed));
        }
        match length() {
            length if length > LONGEST => Err(Nonsense::Length(length)),
            length => Ok(Head::Is { length, passes, then: Stage::Messages }),
        }
    }
}

/// Reads any bytes: it does not matter how they are cut, and what passes of one who watches passes whole when it is read again.
pub(crate) fn read_any(bytes: &[u8]) {
    let whole = Viewer::new(Mode::Watch).hear(bytes);
    let mut viewer = Viewer::new(Mode::Watch);
    let piecewise = bytes.iter().try_fold(Vec::new(), |heard, byte| Ok([heard, viewer.hear(&[*byte])?].concat()));
    assert_eq!(whole, piecewise);
    if let Ok(heard) = whole {
        assert_eq!(Viewer::new(Mode::Watch).hear(&heard), Ok(heard));
    }
}

/// Those in which the viewer chooses how it logs in.
const VERSIONS: [&[u8]; 2] = [b"RFB 003.008\n", b"RFB 003.007\n"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GREETING: &[u8] = b"RFB 003.008\n\x01\x01";

    /// Looks: pixel format, encodings, a request, continuous updates, a fence.
    fn looks() -> Vec<Vec<u8>> {
        let mut encodings = vec![2, 0, 0, 3];
        encodings.extend([7; 12]);
        let mut fence = vec![248, 0, 0, 0, 0, 0, 0, 1, 3];
        fence.extend(b"abc");
        vec![[&[0; 4][..], &[9; 16]].concat(), encodings, vec![3; 10], [&[150][..], &[1; 9]].concat(), fence]
    }

    /// Acts: key, pointer, two pastes, a new size, a key as QEMU has it.
    fn acts() -> Vec<Vec<u8>> {
        let pasted = [&[6, 0, 0, 0, 0, 0, 0, 5][..], b"\x04\x05\x06\x03\x03"].concat();
        let extended = [&[6, 0, 0, 0, 0xff, 0xff, 0xff, 0xfc][..], &[4; 4]].concat();
        let size = [&[251, 0, 4, 0, 3, 0, 1, 0][..], &[5; 16]].concat();
        vec![
            vec![4, 1, 0, 0, 0, 0, 0, 65],
            vec![5, 1, 0, 9, 0, 9],
            pasted,
            extended,
            size,
            vec![255, 0, 0, 1, 0, 0, 0, 65, 0, 0, 0, 30],
        ]
    }

    fn heard(mode: Mode, said: &[u8]) -> Result<Vec<u8>, Nonsense> {
        Viewer::new(mode).hear(said)
    }

    #[test]
    fn who_acts_is_heard_whole_and_who_watches_only_as_far_as_he_looks() {
        let mut all = GREETING.to_vec();
        let mut looking = GREETING.to_vec();
        for (look, act) in looks().iter().chain([&vec![3; 10]]).zip(acts()) {
            all.extend(act.iter().chain(look));
            looking.extend(look);
        }
        assert_eq!(heard(Mode::Interactive, &all).unwrap(), all);
        assert_eq!(heard(Mode::Watch, &all).unwrap(), looking);
    }

    #[test]
    fn nobody_shuts_a_machine_down() {
        let said = [GREETING, &[250, 0, 1, 2], &[3; 10]].concat();
        for mode in [Mode::Watch, Mode::Interactive] {
            assert_eq!(heard(mode, &said).unwrap(), [GREETING, &[3; 10]].concat());
        }
    }

    #[test]
    fn a_password_passes() {
        let said = [b"RFB 003.007\n\x02", &[4; 16][..], &[1], &[4; 8]].concat();
        assert_eq!(heard(Mode::Watch, &said).unwrap(), &said[..said.len() - 8]);
    }

    #[test]
    fn what_is_not_understood_ends_the_conversation() {
        let after = |message: &[u8]| heard(Mode::Watch, &[GREETING, message].concat()).unwrap_err();
        assert_eq!(heard(Mode::Watch, b"RFB 003.003\n"), Err(Nonsense::Version));
        assert_eq!(heard(Mode::Watch, b"GET / HTTP/1.1\r\n"), Err(Nonsense::Version));
        assert_eq!(heard(Mode::Watch, b"RFB 003.008\n\x10"), Err(Nonsense::Security(16)));
        assert_eq!(after(&[1]), Nonsense::Message(1));
        assert_eq!(after(&[255, 1]), Nonsense::Message(255));
        assert_eq!(after(&[6, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]), Nonsense::Length(0x8000_0007));
        assert_eq!(after(&[6, 0, 0, 0, 0x80, 0, 0, 0]), Nonsense::Length(0x8000_0008));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_it_is_cut(
            which in prop::collection::vec((any::<bool>(), 0..5_usize), 0..12),
            cuts in prop::collection::vec(1..40_usize, 1..30),
        ) {
            let mut said = GREETING.to_vec();
            let mut looking = GREETING.to_vec();
            for (act, at) in which {
                if act {
                    said.extend(&acts()[at]);
                } else {
                    said.extend(&looks()[at]);
                    looking.extend(&looks()[at]);
                }
            }
            let (mut viewer, mut heard, mut rest, mut cuts) = (Viewer::new(Mode::Watch), Vec::new(), &said[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                heard.extend(viewer.hear(now).unwrap());
                rest = later;
            }
            prop_assert_eq!(heard, looking);
        }

        #[test]
        fn garbage_ends_it_or_says_nothing_that_acts(garbage in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut viewer = Viewer::new(Mode::Watch);
            viewer.hear(GREETING).unwrap();
            if let Ok(passed) = viewer.hear(&garbage) {
                read_any(&[GREETING, &passed].concat());
            }
        }
    }
}
