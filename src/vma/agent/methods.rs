//! What each method does. Finding the method, framing and the secret are the server's business.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    AgentFailure, Chain,
    config::Settings,
    hooks::{Action, Hooks},
    parameters::Parameters,
    session::Session,
    vnc::{self, Shown, VncError},
};
use crate::{
    model::XState,
    vma::protocol::{Method, Pairs, WAIT_LIMIT, WAIT_SEEN},
};

/// The agent of this VM.
pub struct Agent {
    settings: Arc<Settings>,
    hooks: Hooks,
    session: Arc<Session>,
    lookers: vnc::Lookers,
}

/// What a call leads to.
pub struct Reply {
    /// The result, or why there is none.
    pub answer: Result<Value, String>,
    /// Whether the VM shuts down once the caller has the answer.
    pub power_off: bool,
}

/// Nobody waits longer in one call; who wants to, asks again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl Agent {
    /// Takes over what an agent before left.
    pub fn new(settings: Settings) -> Result<Self, AgentFailure> {
        let settings = Arc::new(settings);
        let hooks = Hooks::new(&settings);
        let session = Session::adopt(Arc::clone(&settings), hooks.clone())
            .map_err(|source| AgentFailure::RunDir { dir: settings.run_dir.display().to_string(), source })?;
        Ok(Self { settings, hooks, session, lookers: vnc::Lookers::default() })
    }

    /// Keeps an eye on the X session from now on.
    pub fn watch(&self) -> std::io::Result<()> {
        self.session.watch()
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Does what is asked. May take as long as hooks and waiting take.
    pub fn call(&self, method: Method, parameters: Pairs) -> Reply {
        let parameters = Parameters::new(parameters);
        let answer = match method {
            Method::Ping => Ok(Value::from(1)),
            Method::XState => Ok(word(self.session.state())),
            Method::XWait => self.wait(&parameters),
            Method::XStart => self.session.start(&parameters).map(|()| "starting".into()).map_err(|error| told(&error)),
            Method::XSuspend => match self.session.suspend() {
                Ok(true) => Ok("starting".into()),
                Ok(false) => Ok(word(self.session.state())),
                Err(error) => Err(told(&error)),
            },
            Method::XStop => match self.session.stop() {
                Ok(true) => Ok("stopping".into()),
                Ok(false) => Ok(word(self.session.state())),
                Err(error) => Err(told(&error)),
            },
            Method::Poweroff => self.hook(Action::Poweroff, &parameters),
            Method::Expire => self.hook(Action::Expire, &parameters),
        };
        Reply { power_off: method == Method::Poweroff && answer.is_ok(), answer }
    }

    /// Makes the desktop ready to be shown.
    pub fn show(&self, view_only: bool) -> Result<Shown, VncError> {
        vnc::prepare(&self.settings, &self.session, &self.lookers, view_only)
    }

    fn wait(&self, parameters: &Parameters) -> Result<Value, String> {
        let seen: XState = parameters.get(WAIT_SEEN).unwrap_or_default().parse()?;
        let limit = parameters.get(WAIT_LIMIT).and_then(|limit| limit.parse().ok());
        let limit = limit.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let limit = limit.ok_or_else(|| format!("{WAIT_LIMIT} is no number of seconds"))?;
        Ok(word(self.session.wait(seen, Instant::now() + limit.min(LONGEST_WAIT))))
    }

    fn hook(&self, action: Action, parameters: &Parameters) -> Result<Value, String> {
        let state = self.session.state();
        self.hooks.action(action, parameters.pairs(), state.as_str()).map_err(|error| told(&error))?;
        Ok(Value::from(1))
    }
}

fn word(state: XState) -> Value {
    Value::from(state.as_str())
}

fn told(error: &dyn std::error::Error) -> String {
    Chain(error).to_string()
}
