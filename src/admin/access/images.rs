//! Disk images, from a file in a staging directory to what VMs start from.

use serde_json::{Value, json};

use crate::{
    admin::{
        objects,
        remote::{self, RemoteError},
    },
    db::{ImageStanding, NewImage, Query, Table},
    model::filter::Filter,
};

use super::{Administration, Answer, By, single::text};

impl Administration {
    /// Has a node make an image of a file in the staging directory. Returns its id.
    ///
    /// # Errors
    /// It is refused.
    pub async fn di_import(&self, new: &NewImage) -> Answer<i32> {
        let client = match &self.by {
            By::Database { connector, .. } => return Ok(connector.di_import(new).await?),
            By::Api(client) => client,
        };
        let NewImage { osf, file, version, moves, tags, publish, soft, hard } = new;
        let mut fields = json!({
            "osf_id": client.named("osf", osf).await?, "disk_image": file, "move": moves, "tags": tags, "auto_publish": publish,
        });
        for (name, value) in [("version", version), ("expiration_time_soft", soft), ("expiration_time_hard", hard)] {
            if let Some(value) = value {
                fields[name] = json!(value);
            }
        }
        Ok(client.create("di", &fields).await?)
    }

    /// How an image stands; `None`: it was deleted.
    ///
    /// # Errors
    /// It is not known.
    pub async fn di_standing(&self, di: i32) -> Answer<Option<ImageStanding>> {
        let client = match &self.by {
            By::Database { connector, .. } => return Ok(connector.di_standing(di).await?),
            By::Api(client) => client,
        };
        let known = match client.get(&format!("/di/{di}")).await {
            Err(RemoteError::Refused(why)) if why.code == "404" => return Ok(None),
            known => known?,
        };
        let tags = known["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        Ok(Some(ImageStanding {
            di,
            version: known["version"].as_str().unwrap_or_default().to_owned(),
            state: text(&known, "state")?,
            percent: known["percentage"].as_f64().unwrap_or_default() as f32,
            message: known["message"].as_str().map(str::to_owned),
            tags: tags.collect(),
            blocked: known["blocked"] == true,
        }))
    }

    /// Lets VMs start from an image that is ready.
    ///
    /// # Errors
    /// It is refused.
    pub async fn di_publish(&self, di: &str) -> Answer<i32> {
        if let By::Database { connector, .. } = &self.by {
            return Ok(connector.di_publish(di).await?);
        }
        self.done("publish", di).await
    }

    /// Gives an image a tag, or takes it away.
    ///
    /// # Errors
    /// It is refused.
    pub async fn di_mark(&self, di: &str, tag: &str, give: bool) -> Answer<i32> {
        match &self.by {
            By::Database { connector, .. } if give => Ok(connector.di_tag(di, tag).await?),
            By::Database { connector, .. } => Ok(connector.di_untag(di, tag).await?),
            By::Api(client) => {
                let id = client.named("di", di).await?;
                let path = format!("/di/{id}/tags/{}", remote::part(tag));
                if give {
                    client.put(&path, None).await?
                } else {
                    client.delete(&path).await?
                };
                Ok(id)
            }
        }
    }

    /// Keeps VMs from starting from an image, or lets them again.
    ///
    /// # Errors
    /// It is refused.
    pub async fn di_block(&self, di: &str, blocked: bool) -> Answer<i32> {
        if let By::Database { connector, .. } = &self.by {
            return Ok(connector.di_block(di, blocked).await?);
        }
        self.done(if blocked { "block" } else { "unblock" }, di).await
    }

    /// Deletes an image with its file. Returns the id that it had.
    ///
    /// # Errors
    /// It is refused.
    pub async fn di_delete(&self, di: &str) -> Answer<i32> {
        if let By::Database { connector, .. } = &self.by {
            return Ok(connector.di_delete(di).await?);
        }
        self.done("del", di).await
    }

    async fn done(&self, verb: &str, di: &str) -> Answer<i32> {
        let id = self.named("di", di).await?;
        self.act_on("di", verb, id).await?;
        Ok(id)
    }

    /// Has the staging directories listed anew.
    ///
    /// # Errors
    /// It is refused.
    pub async fn staging_refresh(&self) -> Answer<()> {
        match &self.by {
            By::Database { connector, .. } => connector.staging_refresh().await?,
            By::Api(client) => drop(client.post("/staging/refresh", None).await?),
        }
        Ok(())
    }

    /// Whether every staging directory was listed since it was last asked for.
    ///
    /// # Errors
    /// It is not known.
    pub async fn staging_is_fresh(&self) -> Answer<bool> {
        Ok(match &self.by {
            By::Database { connector, .. } => connector.staging_is_fresh().await?,
            By::Api(client) => client.get("/staging/refresh").await?["fresh"] == true,
        })
    }

    /// What lies in the staging directories, as far as nodes have said.
    ///
    /// # Errors
    /// It is not to be seen.
    pub async fn staging(&self) -> Answer<Table> {
        let client = match &self.by {
            By::Database { connector, .. } => return Ok(connector.staging().await?),
            By::Api(client) => client,
        };
        let columns = client.columns(&objects::STAGING).await?;
        let everything = Filter::All(Vec::new());
        let query = Query { filter: everything, columns: columns.clone(), order: Vec::new(), limit: None, offset: 0 };
        let mut table = Table { columns, rows: Vec::new() };
        for item in client.objects(&objects::STAGING, &query).await? {
            let cell = |name: &String| match &item[name] {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            };
            table.rows.push(table.columns.iter().map(cell).collect());
        }
        Ok(table)
    }
}
