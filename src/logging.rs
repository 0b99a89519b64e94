//! What this process logs, to its standard error, and how that changes while it runs.

use std::{
    io::IsTerminal,
    sync::{Mutex, OnceLock, PoisonError},
};

use tracing_subscriber::EnvFilter;

use crate::model::config::{Config, keys};

/// Says what is logged, in place of the configuration.
const VARIABLE: &str = "QVD_LOG";

struct Log {
    change: Box<dyn Fn(EnvFilter) + Send + Sync>,
    level: Mutex<String>,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Begins to log; to be called once. `QVD_LOG_FORMAT=json` chooses the form.
pub fn begin() {
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    // A log that cannot be written, on a full disk say, must not end a daemon.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    // One that is not changed goes on as it is.
    let change: Box<dyn Fn(EnvFilter) + Send + Sync>;
    if std::env::var("QVD_LOG_FORMAT").is_ok_and(|format| format == "json") {
        let builder = builder.json().with_filter_reloading();
        let handle = builder.reload_handle();
        change = Box::new(move |filter| drop(handle.reload(filter)));
        builder.init();
    } else {
        let builder = builder.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
        let handle = builder.reload_handle();
        change = Box::new(move |filter| drop(handle.reload(filter)));
        builder.init();
    }
    let _ = LOG.set(Log { change, level: Mutex::new("info".to_owned()) });
}

/// Logs what `log.level` says from now on, unless the environment says what is logged.
pub fn follow(config: &Config) {
    let Some(log) = LOG.get().filter(|_| std::env::var_os(VARIABLE).is_none()) else { return };
    let wanted = config.get(&keys::LOG_LEVEL);
    let mut level = log.level.lock().unwrap_or_else(PoisonError::into_inner);
    if *level == wanted {
        return;
    }
    match EnvFilter::try_new(&wanted) {
        Ok(filter) => {
            tracing::info!(was = *level, level = wanted, "logging at another level");
            (log.change)(filter);
        }
        Err(error) => tracing::warn!(log.level = wanted, %error, "no level of a log; it stays as it is"),
    }
    *level = wanted;
}
