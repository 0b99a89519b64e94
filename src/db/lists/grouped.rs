//! Pages in the order of what few values are: a hundred thousand VMs are on a hundred nodes and most of them are stopped. Such
//! a page is not sorted out of all rows; it is filled from the first value on, in the order of ids, until it is full.

use futures_util::TryStreamExt;

use super::{ID, List, ListError, Query};
use crate::model::filter::{Comparison, Condition, Filter};

/// Fields whose lowest value most rows have.
const LOWEST: [(&str, &str); 3] = [("state", "stopped"), ("user_state", "disconnected"), ("blocked", "false")];
const HOST: &str = "host";

/// Further from the beginning it is quicker to sort.
const DEEP: i64 = 500;
/// A filter may leave little of each node; when so many were looked at in vain it is quicker to sort.
const MOST: usize = 12;

/// Rows that stand together, and the order among them.
struct Group {
    filter: Filter,
    order: (String, bool),
}

impl List<'_> {
    /// The ids of a page that is ordered so; `None` when it is to be sorted.
    pub(super) async fn grouped(&self, query: &Query) -> Result<Option<Vec<i32>>, ListError> {
        let ([(field, descending)], Some(limit)) = (query.order.as_slice(), query.limit) else { return Ok(None) };
        let wanted = limit.saturating_add(query.offset);
        // Of short lists nothing is known, and they are short.
        if self.traits.is_empty() || !self.traits.contains_key(field) || !self.is_seen(field) || wanted > DEEP {
            return Ok(None);
        }
        let groups = match LOWEST.iter().find(|(known, _)| known == field) {
            Some((_, lowest)) => in_two(field, lowest, *descending),
            None if field == HOST => self.by_host(*descending).await?,
            None => return Ok(None),
        };
        let mut ids = Vec::new();
        for (looked, group) in groups.into_iter().enumerate() {
            let missing = wanted - ids.len() as i64;
            if missing == 0 {
                break;
            } else if looked >= MOST {
                return Ok(None);
            }
            let part = Query {
                filter: Filter::All(vec![group.filter, query.filter.clone()]),
                columns: Vec::new(),
                order: vec![group.order],
                limit: Some(missing),
                offset: 0,
            };
            let mut sql = super::Sql { text: "select l.id".to_owned(), values: Vec::new() };
            self.finish(&mut sql, &part)?;
            let rows: Vec<_> = sql.run(self.client).await?.try_collect().await?;
            for row in &rows {
                ids.push(row.try_get(0)?);
            }
        }
        Ok(Some(ids.split_off(ids.len().min(query.offset as usize))))
    }

    /// The nodes by name, and at last what is on none.
    async fn by_host(&self, descending: bool) -> Result<Vec<Group>, ListError> {
        let direction = if descending { "desc" } else { "asc" };
        let names = format!("select name from qvd.host_names() order by name {direction}");
        let rows = self.client.query(&names, &[]).await?;
        let names = rows.iter().map(|row| row.get(0)).chain([String::new()]);
        let on = |name| Group { filter: is(HOST, name), order: (ID.to_owned(), descending) };
        Ok(names.map(on).collect())
    }
}

/// Those with the lowest value, and the others.
fn in_two(field: &str, lowest: &str, descending: bool) -> Vec<Group> {
    let lowest = is(field, lowest.to_owned());
    let others = Group { filter: Filter::Not(Box::new(lowest.clone())), order: (field.to_owned(), descending) };
    let lowest = Group { filter: lowest, order: (ID.to_owned(), descending) };
    if descending { vec![others, lowest] } else { vec![lowest, others] }
}

fn is(field: &str, value: String) -> Filter {
    Filter::Field(field.to_owned(), Condition::Is(Comparison::Equal, value))
}
