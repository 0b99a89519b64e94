//! The user's client: logs in, lets the user choose a desktop, and connects nxproxy with it.
//! `session` is the part that every user interface shares; the rest is the command line. Sound, printers, folders and
//! USB devices are not carried, and there is no window: messages are lines on stderr.

mod args;
mod config;
mod connect;
mod console;
mod error;
mod http;
mod list;
mod nxproxy;
mod quic;
pub mod session;
pub mod transport;
pub mod trust;

use std::{process::ExitCode, sync::Arc};

pub use args::ClientArgs;
pub use config::{ConfigError, Environment, Settings, SslErrors};
pub use console::{Console, Terminal};
pub use error::ClientError;
pub use nxproxy::NxproxyError;
pub use quic::Roamer;

use crate::model::VmId;

use connect::Next;
use session::{Credentials, Desktop, Link, Server, Session};
use transport::Dialer;
use trust::{Finding, Refusal, Scope, Trust};

/// How often a server is tried in all.
const ATTEMPTS: u32 = 5;
/// Said when a server wants its clients back at once.
const REPLACED: &str = "the server was replaced; connecting again";

/// Runs `qvd client` as its arguments say, with the environment and terminal of this process.
pub async fn run(args: ClientArgs) -> ExitCode {
    match drive(&args, &Environment::of_process(), &Terminal).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qvd client: {}", error.sentence());
            ExitCode::from(error.exit_code())
        }
    }
}

/// The same with another environment and console.
///
/// # Errors
/// When no session came about or it did not end in good order.
pub async fn drive(
    args: &ClientArgs,
    environment: &Environment,
    console: &(impl Console + Sync),
) -> Result<(), ClientError> {
    let settings = Settings::gather(args, environment)?;
    if !args.list {
        // Found out before a desktop is started, or taken away from another client, for nothing.
        nxproxy::check(&settings.nxproxy, environment)?;
    }
    let credentials = credentials(&settings, console)?;
    let trust = match settings.tls {
        true => Some(Arc::new(Trust::load(settings.directory.as_deref(), &settings.authorities)?)),
        false => None,
    };
    let dialer = Dialer::new(trust, settings.transport, settings.directory.as_deref())?;
    let outcome = use_server(args, &settings, environment, console, &dialer, credentials).await;
    dialer.farewell().await;
    outcome
}

async fn use_server(
    args: &ClientArgs,
    settings: &Settings,
    environment: &Environment,
    console: &(impl Console + Sync),
    dialer: &Dialer,
    credentials: Credentials,
) -> Result<(), ClientError> {
    let server = Server { host: settings.host.clone(), port: settings.port };
    let (mut session, desktops) = log_in(&server, &credentials, dialer, settings, console).await?;
    if args.list {
        console.print(&list::render(&desktops, args.json));
        return Ok(());
    }
    let desktop = list::choose(&desktops, settings.vm.as_deref(), console)?;
    let mut progress = |text: &str| console.say(text);
    if args.restart_session {
        // What counts is that the desktop is new afterwards; if it could not be stopped, connecting says why.
        if let Err(error) = session.stop(desktop.id, &mut progress).await {
            if error.is_about_connection() {
                return Err(error);
            }
            console.say(&error.sentence());
        }
    }
    let parameters = connect::parameters(settings, environment);
    let parting = session.parting();
    let again = async |resume| {
        console.say(REPLACED);
        let proofs = match resume {
            Some(resume) => (resume, Some(credentials.clone())),
            None => (credentials.clone(), None),
        };
        rejoin(&server, proofs, dialer, settings, console, (desktop.id, &parameters)).await
    };
    let mut link = match session.connect(desktop.id, &parameters, &mut progress).await {
        Err(error) if error.is_about_connection() && connect::wants_return(parting).await => again(None).await?,
        connected => connected?,
    };
    let mut interrupt = connect::interrupt()?;
    loop {
        let (name, resume) = (link.session.clone(), link.resume.take());
        let why = async {
            let mut session = Session::on(dialer.dial(&server).await.ok()?, &server, &credentials);
            session.end_of(&name?).await.ok()?
        };
        let next = connect::hold(link, settings, environment, console, &mut interrupt, why).await?;
        if next == Next::Leave {
            return Ok(());
        }
        link = tokio::select! {
            link = again(resume) => link?,
            () = &mut interrupt => {
                console.say("interrupted");
                return Ok(());
            }
        };
    }
}

/// Connects to the desktop that was used before, with further attempts when the network fails, and with other credentials
/// when some are rejected. The user is asked only for a password that is good no more.
async fn rejoin(
    server: &Server,
    (mut credentials, others): (Credentials, Option<Credentials>),
    dialer: &Dialer,
    settings: &Settings,
    console: &(impl Console + Sync),
    (vm, parameters): (VmId, &[(String, String)]),
) -> Result<Link, ClientError> {
    let (mut attempt, mut others) = (1, others.into_iter());
    loop {
        let tried = async {
            let session = Session::on(dialer.dial(server).await?, server, &credentials);
            session.connect(vm, parameters, &mut |text| console.say(text)).await
        };
        match tried.await {
            Err(error) if error.is_about_connection() && attempt < ATTEMPTS => {
                pause(&error, attempt, settings, console).await;
                attempt += 1;
            }
            Err(error @ ClientError::Rejected { .. }) => {
                credentials = match (others.next(), credentials) {
                    (Some(other), _) => other,
                    (None, Credentials::Password { login, .. }) if console.interactive() && attempt < ATTEMPTS => {
                        attempt += 1;
                        console.say(&error.sentence());
                        let password = ask_password(&login, console)?;
                        Credentials::Password { login, password }
                    }
                    _ => return Err(error),
                }
            }
            outcome => return outcome,
        }
    }
}

/// Says why another attempt is made, and waits before it.
async fn pause(error: &ClientError, attempt: u32, settings: &Settings, console: &impl Console) {
    console.say(&format!("{}; trying again ({attempt} of {ATTEMPTS} failed)", error.sentence()));
    tokio::time::sleep(settings.retry_pause * 2u32.pow(attempt - 1)).await;
}

/// Connects and lists the user's desktops, with further attempts when the network fails, and with consent when the
/// certificate cannot be verified.
async fn log_in(
    server: &Server,
    credentials: &Credentials,
    dialer: &Dialer,
    settings: &Settings,
    console: &impl Console,
) -> Result<(Session, Vec<Desktop>), ClientError> {
    let mut attempt = 1;
    loop {
        let mut parting = None;
        let tried = async {
            let mut session = Session::on(dialer.dial(server).await?, server, credentials);
            parting = session.parting();
            let desktops = session.list().await?;
            Ok::<_, ClientError>((session, desktops))
        };
        let error = match tried.await {
            Ok(logged_in) => return Ok(logged_in),
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(error) => error,
        };
        if error.is_about_connection() && connect::wants_return(parting).await {
            console.say(REPLACED);
            attempt += 1;
            continue;
        }
        match (error, dialer.trust()) {
            (ClientError::Certificate(Refusal::Questionable(finding)), Some(trust)) => {
                let scope = consent(&finding, server, settings.ssl_errors, console)?;
                trust.accept(&server.to_string(), &finding, scope)?;
            }
            (error, _) if error.is_about_connection() => {
                pause(&error, attempt, settings, console).await;
            }
            (error, _) => return Err(error),
        }
        attempt += 1;
    }
}

/// Whether, and for how long, a certificate that cannot be verified is accepted.
fn consent(
    finding: &Finding,
    server: &Server,
    policy: SslErrors,
    console: &impl Console,
) -> Result<Scope, ClientError> {
    let declined = || ClientError::Certificate(Refusal::Declined(finding.clone()));
    match policy {
        SslErrors::Abort => Err(declined()),
        SslErrors::Ask => console::ask_consent(finding, server, console).ok_or_else(declined),
        SslErrors::Continue => {
            let problems = finding.problems().join(", ");
            console.say(&format!("WARNING: going on although the identity of {server} cannot be verified: {problems}"));
            Ok(Scope::Once)
        }
    }
}

fn credentials(settings: &Settings, console: &impl Console) -> Result<Credentials, ClientError> {
    if let Some(token) = &settings.token {
        return Ok(Credentials::Token(token.clone()));
    }
    let login = match &settings.user {
        Some(user) => user.clone(),
        None if console.interactive() => console.ask("User: ")?,
        None => return Err(ClientError::Usage("whom to log in as is not known; use --user or QVDLOGIN".to_owned())),
    };
    let password = match &settings.password {
        Some(password) => password.clone(),
        None if console.interactive() => ask_password(&login, console)?,
        None => {
            return Err(ClientError::Usage(format!(
                "the password of {login} is not known and there is no terminal to ask on; set QVDPASSWORD"
            )));
        }
    };
    Ok(Credentials::Password { login, password })
}

fn ask_password(login: &str, console: &impl Console) -> Result<String, ClientError> {
    Ok(console.ask_hidden(&format!("Password of {login}: "))?)
}

#[cfg(test)]
mod tests;
