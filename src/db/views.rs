//! How administrators look at lists: the columns that they, or their tenants, have chosen.

use super::{Acting, DbError, List};

/// What a list is looked at with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A screen with room.
    Desktop,
    /// One that is held in a hand.
    Mobile,
}

impl Device {
    fn name(self) -> &'static str {
        match self {
            Self::Desktop => "desktop",
            Self::Mobile => "mobile",
        }
    }
}

/// How a custom property is called among the fields of views.
const PROPERTY: &str = "property:";

impl Acting {
    /// Fields of a list of which was said whether they are shown: by who acts, else in his tenant.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn columns(&self, list: &str, device: Device) -> Result<Vec<(String, bool)>, DbError> {
        let query = "select field, visible from qvd.view_list
            where qvd_object = $1 and view_type = 'list_column' and device_type::text = $2 and tenant_id = qvd.my_tenant()
            order by id";
        let rows = self.client().query(query, &[&list, &device.name()]).await?;
        let plain = |field: &str| field.strip_prefix(PROPERTY).unwrap_or(field).to_owned();
        Ok(rows.iter().map(|row| (plain(row.get(0)), row.get(1))).collect())
    }

    /// Remembers for who acts which columns of a list are shown, and which are not; nothing: as it is for everybody.
    ///
    /// # Errors
    /// There is no such list, or the database cannot be reached.
    pub async fn choose_columns(
        &self,
        list: &str,
        device: Device,
        shown: &[String],
        hidden: &[String],
    ) -> Result<(), DbError> {
        let query = "select qvd.view_columns($1, $2::text::qvd.device_type, $3, $4)";
        self.client().query(query, &[&list, &device.name(), &shown, &hidden]).await?;
        Ok(())
    }
}

impl List<'_> {
    /// What views call a field: custom properties are told from columns.
    #[must_use]
    pub fn view_field(&self, name: &str) -> String {
        if self.columns().any(|column| column == name) { name.to_owned() } else { format!("{PROPERTY}{name}") }
    }
}
