//! What the fields of objects hold, as the database has them: the types of columns of lists, and of what can be set.

use tokio_postgres::types::{Kind, Type};

use super::{Acting, DbError, List};

/// What a field holds, as far as a program needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// A text: also a time, an interval, an address.
    Text,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// Yes or no.
    Boolean,
    /// Any JSON.
    Document,
    /// One of these words.
    OneOf(Vec<String>),
    /// A list.
    Several(Box<Self>),
}

impl From<&Type> for FieldType {
    fn from(kind: &Type) -> Self {
        match kind.kind() {
            Kind::Enum(words) => return Self::OneOf(words.clone()),
            Kind::Array(element) => return Self::Several(Box::new(element.into())),
            Kind::Domain(base) => return base.into(),
            _ => {}
        }
        match *kind {
            Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => Self::Integer,
            Type::FLOAT4 | Type::FLOAT8 | Type::NUMERIC => Self::Number,
            Type::BOOL => Self::Boolean,
            Type::JSON | Type::JSONB => Self::Document,
            _ => Self::Text,
        }
    }
}

impl List<'_> {
    /// Its columns and what they hold.
    pub fn types(&self) -> impl Iterator<Item = (&str, FieldType)> {
        self.columns_with_types().map(|(name, kind)| (name, kind.into()))
    }
}

impl Acting {
    /// The fields of objects of a kind that are set by name, and what they hold.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn settable(&self, kind: &str) -> Result<Vec<(String, FieldType)>, DbError> {
        let query = "select 'select ' || string_agg(format('null::%s as %I', typ, field), ', ')
             from qvd.object_fields() where kind = $1";
        let Some(fields) = self.client().query_one(query, &[&kind]).await?.get::<_, Option<String>>(0) else {
            return Ok(Vec::new());
        };
        let statement = self.client().prepare(&fields).await?;
        Ok(statement.columns().iter().map(|column| (column.name().to_owned(), column.type_().into())).collect())
    }
}
