//! `qvd admin user`: what is done with one user and takes more than SQL.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::Context;
use clap::Subcommand;
use qrcode::{QrCode, render::unicode::Dense1x2};
use serde_json::json;

use crate::{
    admin::{access::Administration, objects},
    auth::Enrolment,
    db::TotpSettings,
};

use super::{
    settings::{DatabaseArg, WebTool},
    verbs::{self, Common, Lock},
};

#[derive(Subcommand)]
pub enum Command {
    #[command(flatten)]
    Common(Common),
    #[command(flatten)]
    Lock(Lock),
    /// Give a user a secret for one-time passwords (TOTP), in the place of an older one
    Totp {
        /// Who, as login or login@tenant
        #[arg(value_name = "LOGIN[@TENANT]")]
        user: String,
        #[command(flatten)]
        database: DatabaseArg,
        /// What the user's app shows beside the codes
        #[arg(long, default_value = "QVD", conflicts_with = "remove")]
        issuer: String,
        /// Take the secret away
        #[arg(long)]
        remove: bool,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
}

pub async fn run(command: Command, web: &WebTool) -> anyhow::Result<ExitCode> {
    match command {
        Command::Common(command) => verbs::common(&objects::USER, command, web).await,
        Command::Lock(command) => verbs::lock(&objects::USER, command, web).await,
        Command::Totp { user, database, issuer, remove, json } => {
            let administration = web.administration(&database).await?;
            totp(&user, &administration, &issuer, remove, json).await.map(|()| ExitCode::SUCCESS)
        }
    }
}

async fn totp(
    user: &str,
    administration: &Administration,
    issuer: &str,
    remove: bool,
    json: bool,
) -> anyhow::Result<()> {
    if remove {
        let settings = administration.user_totp(user, None).await?;
        let had = settings.had_one;
        if json {
            println!("{}", json!({ "user": settings.user, "removed": had, "required": settings.required }));
        } else {
            println!(
                "{} {} secret for one-time passwords.",
                settings.user,
                if had { "has no longer a" } else { "had no" }
            );
            if settings.required {
                println!(
                    "Without one {} cannot log in: one-time passwords are required in this tenant.",
                    settings.user
                );
            }
        }
        return Ok(());
    }
    let enrolment = Enrolment::random();
    let settings = administration.user_totp(user, Some(enrolment.secret())).await?;
    let uri = enrolment.uri(issuer, &settings.user, settings.digits, settings.interval);
    if json {
        let secret = enrolment.secret();
        println!("{}", json!({ "user": settings.user, "secret": secret, "uri": uri, "required": settings.required }));
        return Ok(());
    }
    println!("{}", told(&settings, enrolment.secret(), &uri));
    if std::io::stdout().is_terminal() {
        let code = QrCode::new(&uri).context("the address does not fit into a QR code")?;
        // Terminals are dark: what is light in the code must shine.
        println!("{}", code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build());
    }
    Ok(())
}

fn told(TotpSettings { user, digits, t0, had_one, required, .. }: &TotpSettings, secret: &str, uri: &str) -> String {
    let mut lines = vec![
        format!("secret   {secret}"),
        format!("address  {uri}"),
        String::new(),
        format!("{user} enters the secret into an app for one-time passwords (or scans it), and from then on logs in"),
        format!("with the password and, right behind it, the {digits} digits that the app shows."),
        "Nobody can be shown the secret again; run this once more for a new one.".to_owned(),
    ];
    if *had_one {
        lines.push("The secret before this one is of no use any more.".to_owned());
    }
    if !required {
        lines.push(
            "One-time passwords are not asked for in this tenant yet. With this they are, of all its users:".to_owned(),
        );
        let (_, tenant) = user.rsplit_once('@').unwrap_or_default();
        lines.push(format!(
            "  select config_set('l7r.auth.plugins', 'TOTP', tenant => '{}');",
            tenant.replace('\'', "''")
        ));
    }
    if *t0 != 0 {
        lines.push("Apps count intervals from 1970, so none will agree with l7r.auth.plugin.totp.t0.".to_owned());
    }
    lines.join("\n")
}
