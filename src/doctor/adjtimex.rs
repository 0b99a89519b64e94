//! What the kernel knows of its clock: adjtimex(2), which is only asked here.
#![allow(unsafe_code, reason = "wraps adjtimex(2)")]

use std::{mem::MaybeUninit, time::Duration};

use nix::libc;

/// Who keeps the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Somebody keeps it right, and it is wrong by so much at most.
    Within(Duration),
    /// Nobody keeps it right.
    Free,
    /// The kernel does not say.
    Unknown,
}

/// Asks the kernel.
pub fn look() -> Kept {
    let mut state = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: all zeros is a value of `timex`, which is made of numbers; with `modes` 0 it is only written to.
    let (answer, state) = unsafe { (libc::adjtimex(state.as_mut_ptr()), state.assume_init()) };
    match answer {
        -1 => Kept::Unknown,
        libc::TIME_ERROR => Kept::Free,
        _ => Kept::Within(Duration::from_micros(u64::try_from(state.maxerror).unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        assert_ne!(look(), Kept::Unknown);
    }
}
