//! What happens, as it is told: hints at most, and nothing that could be missed without being told so.

use tokio::sync::mpsc::UnboundedReceiver;

use crate::db::{Connector, Listen, Listener};

use super::AccessError;

/// Everything from the moment on when this was made.
pub struct Changes {
    source: Source,
}

enum Source {
    Database(Box<Listen>),
    Api(UnboundedReceiver<String>),
}

impl Changes {
    pub(super) async fn of_database(connector: &Connector) -> Result<Self, AccessError> {
        let listen = Listener::connect(connector).await?;
        listen.listener.watch().await?;
        Ok(Self { source: Source::Database(Box::new(listen)) })
    }

    pub(super) fn of_api(told: UnboundedReceiver<String>) -> Self {
        Self { source: Source::Api(told) }
    }

    /// The next one, as JSON; `None`: the connection is lost.
    pub async fn next(&mut self) -> Option<String> {
        match &mut self.source {
            Source::Database(listen) => listen.notifications.recv().await.map(|heard| heard.payload),
            Source::Api(told) => told.recv().await,
        }
    }

    /// Takes those that were told already: whoever looks now sees what they are about.
    pub fn skip(&mut self) {
        match &mut self.source {
            Source::Database(listen) => while listen.notifications.try_recv().is_ok() {},
            Source::Api(told) => while told.try_recv().is_ok() {},
        }
    }
}
