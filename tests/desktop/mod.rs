//! Desktops from end to end: database, node, container, agent, nxagent, router, client, nxproxy and a screen, all real.
//! What is asserted is what a user sees on the screen, what an administrator reads in the database, and what is left
//! on the machine.

mod appears;
mod bad_input;
mod classic;
mod console;
mod desk;
mod doctor;
mod escape;
mod guest;
mod installation;
mod isolation;
mod kvm;
mod node_crashes;
mod processes;
mod sessions;
mod stopping;
mod traces;
mod viewer;
mod vm_crashes;

pub use desk::{ANIMATION, Desk, PASSWORD, SESSION};
pub use installation::Installation;
pub use viewer::Viewer;

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up. Nothing takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked.
const POLL: Duration = Duration::from_millis(20);

/// Looks until there is something. What is seen instead is told when it never comes.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    let mut clock = tokio::time::interval(POLL);
    loop {
        clock.tick().await;
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}; instead: {seen}"),
        }
    }
}

/// A condition as `eventually` wants it.
fn holds(condition: bool) -> Result<(), String> {
    if condition { Ok(()) } else { Err("it is not so".to_owned()) }
}

/// Tells how long something took; seen with `--nocapture`.
fn measured(what: &str, began: Instant) {
    println!("measured: {what}: {} ms", began.elapsed().as_millis());
}
