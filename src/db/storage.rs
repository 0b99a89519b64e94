//! What is asked of the database to look through a storage (`qvd admin storage check`).

use tokio_postgres::IsolationLevel;

use crate::model::{Census, CensusImage, DiId, HostId, StorageId, UserId, VmId};

use super::{Connector, DbError};

/// The storage of a node, as it is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedStorage {
    /// Its identity; `None`: the node has never used a storage that it shares.
    pub identity: Option<StorageId>,
}

impl Connector {
    /// The storage of the node of this name; `None`: there is no such node.
    pub async fn recorded_storage(&self, node: &str) -> Result<Option<RecordedStorage>, DbError> {
        let client = self.client().await?;
        let row = client.query_opt("select storage_id::text from qvd.hosts where name = $1", &[&node]).await?;
        row.map(|row| {
            let identity = row.get::<_, Option<&str>>(0).map(str::parse).transpose();
            Ok(RecordedStorage { identity: identity.map_err(|error| DbError::Shape(format!("{error}")))? })
        })
        .transpose()
    }

    /// All that can lie on a storage, at one moment.
    pub async fn census(&self) -> Result<Census, DbError> {
        let mut client = self.client().await?;
        let moment = client.build_transaction().read_only(true).isolation_level(IsolationLevel::RepeatableRead);
        let moment = moment.start().await?;
        let vms = moment
            .query(
                "select v.id, coalesce(r.vm_state <> 'stopped' or r.vm_cmd is not null or r.host_id is not null, false)
                 from qvd.vms v left join qvd.vm_runtimes r on r.vm_id = v.id",
                &[],
            )
            .await?;
        let users = moment
            .query(
                "select u.id, exists (
                     select from qvd.vms v join qvd.vm_runtimes r on r.vm_id = v.id
                     where v.user_id = u.id
                         and (r.vm_state <> 'stopped' or r.vm_cmd is not null or r.host_id is not null))
                 from qvd.users u",
                &[],
            )
            .await?;
        let images = moment
            .query(
                "select d.id, d.path, coalesce(r.state in ('ready', 'published'), false), i.di_id is not null,
                     exists (select from qvd.vm_runtimes u where u.current_di_id = d.id)
                     or exists (
                         select from qvd.di_tags t join qvd.vms v on v.osf_id = d.osf_id and v.di_tag = t.tag
                         where t.di_id = d.id and r.state in ('ready', 'published') and not d.blocked),
                     r.size, r.sha256
                 from qvd.dis d left join qvd.di_runtimes r on r.di_id = d.id left join qvd.di_imports i on i.di_id = d.id",
                &[],
            )
            .await?;
        let epochs = moment.query("select host_id, epoch from qvd.host_runtimes", &[]).await?;
        let places = "select count(distinct coalesce(storage_id::text, 'host ' || id)) <= 1 from qvd.hosts";
        let one_storage = moment.query_one(places, &[]).await?.get(0);
        Ok(Census {
            vms: vms.iter().map(|row| (VmId(row.get(0)), row.get(1))).collect(),
            users: users.iter().map(|row| (UserId(row.get(0)), row.get(1))).collect(),
            images: images
                .iter()
                .map(|row| CensusImage {
                    di: DiId(row.get(0)),
                    path: row.get(1),
                    is_ready: row.get(2),
                    is_coming: row.get(3),
                    is_used: row.get(4),
                    size: row.get::<_, Option<i64>>(5).and_then(|size| u64::try_from(size).ok()),
                    sha256: row.get(6),
                })
                .collect(),
            epochs: epochs.iter().map(|row| (HostId(row.get(0)), row.get(1))).collect(),
            one_storage,
        })
    }
}
