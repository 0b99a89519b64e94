//! What is done with one object that is named as people name it: VMs, nodes, users.

use serde_json::{Value, json};

use crate::{
    admin::remote::RemoteError,
    db::{Console, Expiration, HostUse, TotpSettings},
    model::HostState,
};

use super::{AccessError, Administration, Answer, By, unexpected};

impl Administration {
    /// The object of that name.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub async fn named(&self, kind: &str, name: &str) -> Answer<i32> {
        Ok(match &self.by {
            By::Database { acting, .. } => acting.named(kind, name).await?,
            By::Api(client) => client.named(kind, name).await?,
        })
    }

    /// Why a VM is in the state it is in, in words and as facts.
    ///
    /// # Errors
    /// There is no such VM.
    pub async fn vm_why(&self, vm: &str) -> Answer<(String, Value)> {
        let id = self.named("vm", vm).await?;
        Ok(match &self.by {
            By::Database { acting, .. } => (acting.vm_why(id).await?, acting.vm_facts(id).await?),
            By::Api(client) => {
                let mut answer = client.get(&format!("/vm/{id}/why")).await?;
                (text(&answer, "why")?, answer["facts"].take())
            }
        })
    }

    /// Lets the present run of a VM expire; times as PostgreSQL reads them, or an interval from now behind a `+`.
    ///
    /// # Errors
    /// It is refused.
    pub async fn vm_expire(&self, vm: &str, soft: Option<&str>, hard: Option<&str>) -> Answer<Expiration> {
        let id = self.named("vm", vm).await?;
        Ok(match &self.by {
            By::Database { acting, .. } => acting.vm_expire(id, soft, hard).await?,
            By::Api(client) => {
                let times = json!({ "soft": soft, "hard": hard });
                let understood = client.put(&format!("/vm/{id}/expiration"), Some(&times)).await?;
                let time = |name: &str| understood[name].as_str().map(str::to_owned);
                Expiration { soft: time("soft"), hard: time("hard") }
            }
        })
    }

    /// Watches the console of a VM for a minute, and tells what was said behind what was seen `last`.
    ///
    /// # Errors
    /// There is no such VM, or it is not to be seen.
    pub async fn vm_console(&self, vm: i32, last: i64) -> Answer<Console> {
        Ok(match &self.by {
            By::Database { acting, .. } => acting.vm_console(vm, last).await?,
            By::Api(client) => {
                let answer = client.get(&format!("/vm/{vm}/console?after={last}")).await?;
                Console {
                    answered: answer["answered"].as_bool().unwrap_or_default(),
                    said: text(&answer, "said")?,
                    last: answer["last"].as_i64().unwrap_or(last),
                }
            }
        })
    }

    /// Blocks a node or takes it into use again.
    ///
    /// # Errors
    /// It is refused.
    pub async fn host_block(&self, host: &str, blocked: bool) -> Answer<()> {
        if let By::Database { connector, .. } = &self.by {
            return Ok(connector.host_block(host, blocked).await?);
        }
        let id = self.named("host", host).await?;
        self.act_on("host", if blocked { "block" } else { "unblock" }, id).await
    }

    /// Tells a node to stop, with all its VMs.
    ///
    /// # Errors
    /// It is refused.
    pub async fn host_stop(&self, host: &str) -> Answer<()> {
        match &self.by {
            By::Database { connector, .. } => connector.host_stop(host).await?,
            By::Api(client) => {
                let id = client.named("host", host).await?;
                client.post(&format!("/host/{id}/stop"), None).await?;
            }
        }
        Ok(())
    }

    /// Frees the VMs of a node that is off. Returns those that were up.
    ///
    /// # Errors
    /// It is refused.
    pub async fn host_release(&self, host: &str) -> Answer<Vec<i32>> {
        Ok(match &self.by {
            By::Database { connector, .. } => connector.host_release(host).await?,
            By::Api(client) => {
                let id = client.named("host", host).await?;
                let answer = client.post(&format!("/host/{id}/release"), None).await?;
                serde_json::from_value(answer["released"].clone()).map_err(|_| RemoteError::of_answer(&answer))?
            }
        })
    }

    /// The state of a node.
    ///
    /// # Errors
    /// There is no such node, or its state is not to be seen.
    pub async fn host_state(&self, host: &str) -> Answer<HostState> {
        match &self.by {
            By::Database { connector, .. } => Ok(connector.host_state(host).await?),
            By::Api(_) => {
                let known = self.look("host", host).await?;
                let hidden = || unexpected("the states of nodes are not for this administrator to see");
                known["state"].as_str().and_then(|state| state.parse().ok()).ok_or_else(hidden)
            }
        }
    }

    /// Who uses a node.
    ///
    /// # Errors
    /// There is no such node.
    pub async fn host_use(&self, host: &str) -> Answer<HostUse> {
        match &self.by {
            By::Database { connector, .. } => Ok(connector.host_use(host).await?),
            By::Api(_) => {
                let known = self.look("host", host).await?;
                let count = |name: &str| known[name].as_i64().unwrap_or_default();
                Ok(HostUse { sessions: count("sessions"), vms: count("vms") })
            }
        }
    }

    /// What is known of an object, from the web tool.
    pub(super) async fn look(&self, kind: &str, name: &str) -> Answer<Value> {
        let id = self.named(kind, name).await?;
        match &self.by {
            By::Api(client) => Ok(client.get(&format!("/{kind}/{id}")).await?),
            By::Database { .. } => Err(unexpected("this is asked of the web tool alone")),
        }
    }

    /// Stores what a user's one-time passwords are made from (base32), or forgets it.
    ///
    /// # Errors
    /// It is refused.
    pub async fn user_totp(&self, user: &str, secret: Option<&str>) -> Answer<TotpSettings> {
        let client = match &self.by {
            By::Database { connector, .. } => return Ok(connector.user_totp(user, secret).await?),
            By::Api(client) => client,
        };
        let path = format!("/user/{}/totp", client.named("user", user).await?);
        let answer = match secret {
            Some(secret) => client.put(&path, Some(&json!({ "secret": secret }))).await?,
            None => client.delete(&path).await?,
        };
        let number =
            |name: &str| answer[name].as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or_default();
        Ok(TotpSettings {
            user: text(&answer, "user")?,
            had_one: answer["had_one"] == true,
            required: answer["required"] == true,
            digits: number("digits"),
            interval: number("interval"),
            t0: number("t0"),
        })
    }
}

pub(super) fn text(answer: &Value, name: &str) -> Result<String, AccessError> {
    let text = answer[name].as_str().ok_or_else(|| RemoteError::of_answer(answer))?;
    Ok(text.to_owned())
}
