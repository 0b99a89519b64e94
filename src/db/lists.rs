//! Lists for administrators: the views of `sql/views`, chosen from by a filter, ordered, and given row by row. Columns
//! and their types are asked of the database, so that a view and its list cannot differ. A page is found first, with no
//! more tables than filter and order name, and then looked up; what somebody may not see, and rows of other tenants, are
//! left out of the statement so that its plan is for the rest. The policies hold all the same.

mod grouped;

use std::{collections::HashMap, fmt::Write as _};

use futures_util::{Stream, TryStreamExt};
use thiserror::Error;
use tokio_postgres::{
    Client, Statement,
    types::{Kind, ToSql, Type},
};

use crate::model::filter::{Comparison, Condition, Filter};

use super::{DbError, acting::Acting};

/// What is asked of a list.
#[derive(Clone, Debug)]
pub struct Query {
    /// Which rows.
    pub filter: Filter,
    /// Which columns, or custom properties, in this order.
    pub columns: Vec<String>,
    /// What the rows are ordered by: columns, and whether from the last to the first. Then by id, if there is one.
    pub order: Vec<(String, bool)>,
    /// At most so many rows.
    pub limit: Option<i64>,
    /// Without so many at the beginning.
    pub offset: i64,
}

/// A list that cannot be given.
#[derive(Debug, Error)]
pub enum ListError {
    /// Neither a column nor a property is called so.
    #[error("there is no field {name}; the fields are {known}")]
    NoField {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// It has no order.
    #[error("{name} cannot be compared in this way: it is {kind}")]
    NoOrder {
        /// What was to be compared.
        name: String,
        /// What it is.
        kind: &'static str,
    },
    /// A value is none of the field's type; PostgreSQL says which.
    #[error("{0}")]
    NoValue(String),
    /// The database refused, or is lost.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<tokio_postgres::Error> for ListError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // Class 22 of appendix A of PostgreSQL's manual.
            Some(said) if said.code().code().starts_with("22") => Self::NoValue(said.message().to_owned()),
            _ => Self::Db(error.into()),
        }
    }
}

/// A view, its columns, and the connection by which it is asked.
pub struct List<'a> {
    client: &'a Client,
    view: String,
    columns: Vec<(String, Type)>,
    properties: Vec<String>,
    /// Of long lists: what `list_fields` says.
    traits: HashMap<String, Trait>,
    /// Of long lists: the one tenant whose rows there are for who asks.
    tenant: Option<i32>,
}

/// What there is to know of a field beside its type.
struct Trait {
    /// Who asks may see it.
    seen: bool,
    /// The view to begin at, if this field is what it is about.
    source: Option<String>,
    /// To be sorted by these in its place.
    sort: Option<Vec<String>>,
    /// It is never null.
    always: bool,
    /// What an index finds rows with a value by.
    narrow: Option<Narrow>,
}

/// A column that is, where a field has a value, what a function makes of this value.
struct Narrow {
    column: String,
    function: String,
}

impl Narrow {
    fn read(parts: Vec<String>) -> Option<Self> {
        let [column, function] = <[String; 2]>::try_from(parts).ok()?;
        Some(Self { column, function })
    }

    /// Beside the condition proper, for the index.
    fn condition(&self, values: &str) -> String {
        let (column, function) = (quoted(&self.column), quoted(&self.function));
        format!("l.{column} = any(array(select qvd.{function}(v) from unnest({values}) v)) and ")
    }
}

/// The column by which rows are known.
const ID: &str = "id";

/// The column with an object's custom properties, as a JSON object.
const PROPERTIES: &str = "properties";

/// The list as a whole, among its fields.
const WHOLE: &str = "";

/// A condition or a row in SQL, and the values of its parameters.
#[derive(Debug, Default)]
struct Sql {
    text: String,
    values: Vec<Parameter>,
}

#[derive(Debug)]
enum Parameter {
    One(String),
    Many(Vec<String>),
}

/// A column, or a property, which is in column `properties`.
enum Field<'a> {
    Column(&'a str, &'a Type),
    Property(&'a str),
    /// One that is null to who asks.
    Unseen(&'a Type),
}

impl Acting {
    /// Looks at the columns of view `<name>_list`, and at the custom properties that such objects may have. Rows of long
    /// lists come from `<name>_fields`.
    ///
    /// # Errors
    /// There is none, or the role may not read it.
    pub async fn list(&self, name: &str) -> Result<List<'_>, DbError> {
        let client = self.client();
        let view = format!("qvd.{}", quoted(&format!("{name}_list")));
        let statement = client.prepare(&format!("select * from {view}")).await?;
        let columns: Vec<(String, Type)> =
            statement.columns().iter().map(|column| (column.name().to_owned(), column.type_().clone())).collect();
        let mut properties = Vec::new();
        if columns.iter().any(|(column, _)| column == PROPERTIES) {
            let query = "select distinct l.key
                 from qvd.properties_list l join qvd.qvd_object_properties_list o on o.property_id = l.id
                 where o.qvd_object::text = $1";
            properties = client.query(query, &[&name]).await?.iter().map(|row| row.get(0)).collect();
        }
        let query = "select field, acl is null or qvd.can(acl), source, sort, always, narrow,
                 case when not (select qvd.sees_all()) then (select qvd.my_tenant()) end
             from qvd.list_fields() where list = $1";
        let rows = client.query(query, &[&name]).await?;
        let traits: HashMap<String, Trait> = rows
            .iter()
            .map(|row| {
                let narrow = row.get::<_, Option<Vec<String>>>(5).and_then(Narrow::read);
                let (source, sort, always) = (row.get(2), row.get(3), row.get(4));
                (row.get(0), Trait { seen: row.get(1), source, sort, always, narrow })
            })
            .collect();
        let tenant = rows.first().and_then(|row| row.get(6));
        // One that is not there for who asks is empty in any case.
        let view = match traits.get(WHOLE) {
            Some(whole) if whole.seen => format!("qvd.{}", quoted(&format!("{name}_fields"))),
            _ => view,
        };
        Ok(List { client, view, columns, properties, traits, tenant })
    }
}

impl List<'_> {
    /// The names of its columns.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    pub(super) fn columns_with_types(&self) -> impl Iterator<Item = (&str, &Type)> {
        self.columns.iter().map(|(name, kind)| (name.as_str(), kind))
    }

    /// What can be shown, ordered by and filtered by: columns and custom properties.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.columns().filter(|name| *name != PROPERTIES).chain(self.properties.iter().map(String::as_str))
    }

    /// Every row as text, field by field; `None` is null.
    ///
    /// # Errors
    /// A field does not exist, a value has not its type, or the database is lost.
    pub async fn rows(
        &self,
        query: &Query,
    ) -> Result<impl Stream<Item = Result<tokio_postgres::Row, ListError>> + use<>, ListError> {
        let mut shown = Vec::new();
        for name in &query.columns {
            shown.push(self.field(name)?.shown());
        }
        self.select(&shown.join(", "), query).await?.run(self.client).await
    }

    /// Every row as a JSON object in one text.
    ///
    /// # Errors
    /// The same.
    pub async fn objects(
        &self,
        query: &Query,
    ) -> Result<impl Stream<Item = Result<tokio_postgres::Row, ListError>> + use<>, ListError> {
        let mut pairs = Vec::new();
        for name in &query.columns {
            pairs.push(format!("{}, {}", literal(name), self.field(name)?.sql()));
        }
        self.select(&format!("json_build_object({})::text", pairs.join(", ")), query).await?.run(self.client).await
    }

    /// The ids of the rows, in order.
    ///
    /// # Errors
    /// The same, or the list has no ids.
    pub async fn ids(&self, filter: &Filter) -> Result<Vec<i32>, ListError> {
        let order = vec![(ID.to_owned(), false)];
        let query = Query { filter: filter.clone(), columns: Vec::new(), order, limit: None, offset: 0 };
        let rows: Vec<_> = self.select("l.id", &query).await?.run(self.client).await?.try_collect().await?;
        rows.iter().map(|row| row.try_get(0).map_err(ListError::from)).collect()
    }

    /// How many rows the filter chooses.
    ///
    /// # Errors
    /// The same.
    pub async fn count(&self, filter: &Filter) -> Result<i64, ListError> {
        self.count_to(filter, None).await
    }

    /// How many rows the filter chooses, but no more than `most`: to find more than that is not worth the time.
    ///
    /// # Errors
    /// The same.
    pub async fn count_to(&self, filter: &Filter, most: impl Into<Option<i64>>) -> Result<i64, ListError> {
        let mut sql = Sql { text: "select count(*) from (select".to_owned(), values: Vec::new() };
        self.chosen(&mut sql, filter, &[])?;
        if let Some(most) = most.into() {
            let _ = write!(sql.text, " limit {most}");
        }
        sql.text.push_str(") c");
        let rows: Vec<_> = sql.run(self.client).await?.try_collect().await?;
        Ok(rows.first().map_or(Ok(0), |row| row.try_get(0))?)
    }

    /// The statement for what is shown of each row.
    async fn select(&self, shown: &str, query: &Query) -> Result<Sql, ListError> {
        let mut sql = Sql::default();
        if let Some(ids) = self.grouped(query).await? {
            let view = &self.view;
            let ids = sql.value(Parameter::Many(ids.iter().map(i32::to_string).collect()));
            let _ = write!(
                sql.text,
                "select {shown} from {view} l where l.id = any({ids}::integer[])
                 order by array_position({ids}::integer[], l.id)"
            );
            return Ok(sql);
        }
        if query.limit.is_none() || self.traits.is_empty() {
            let _ = write!(sql.text, "select {shown}");
            self.finish(&mut sql, query)?;
            return Ok(sql);
        }
        // The rows of a page are found by as few tables as possible. Its ids go to the index of the table as they are: a
        // join with them would be one of more than the planner tries all orders of.
        sql.text.push_str("with page as materialized (select array(select l.id");
        self.finish(&mut sql, query)?;
        let _ = write!(
            sql.text,
            ") as ids) select {shown} from {view} l where l.id = any((select ids from page)::{kind}[])
             order by array_position((select ids from page), l.id)",
            view = self.view,
            kind = self.field(ID)?.type_name()
        );
        Ok(sql)
    }

    /// What is behind the columns.
    fn finish(&self, sql: &mut Sql, query: &Query) -> Result<(), ListError> {
        let mut order = Vec::new();
        for (name, descending) in &query.order {
            match self.traits.get(name).and_then(|of| of.sort.as_ref()) {
                Some(_) if !self.is_seen(name) => {}
                Some(sort) => order.extend(sort.iter().map(|name| (name.as_str(), *descending))),
                None => order.push((name.as_str(), *descending)),
            }
        }
        // In the direction of what comes before, as indexes have it.
        if let Some((_, descending)) = query.order.last()
            && self.columns().any(|name| name == ID)
        {
            order.push((ID, *descending));
        }
        self.chosen(sql, &query.filter, &order)?;
        for (at, (name, descending)) in order.iter().enumerate() {
            sql.text.push_str(if at == 0 { " order by " } else { ", " });
            sql.text.push_str(&self.field(name)?.sql());
            if *descending {
                sql.text.push_str(if self.is_always(name) { " desc" } else { " desc nulls last" });
            }
        }
        if let Some(limit) = query.limit {
            let _ = write!(sql.text, " limit {limit}");
        }
        if query.offset > 0 {
            let _ = write!(sql.text, " offset {}", query.offset);
        }
        Ok(())
    }

    /// Where rows come from that are chosen and ordered so, and the condition.
    fn chosen(&self, sql: &mut Sql, filter: &Filter, order: &[(&str, bool)]) -> Result<(), ListError> {
        let source = |name: &str| self.traits.get(name).filter(|of| of.seen).and_then(|of| of.source.as_deref());
        let source = match order {
            [(ID, _)] | [] => filter.fields().into_iter().find_map(source),
            [(first, _), ..] => source(first),
        };
        match source {
            Some(source) => write!(sql.text, " from qvd.{} l where ", quoted(source)),
            None => write!(sql.text, " from {} l where ", self.view),
        }
        .ok();
        if let Some(tenant) = self.tenant {
            let _ = write!(sql.text, "l.tenant_id = {tenant} and ");
        }
        // With a value in every row the planner may begin at the table that is in this order.
        if let Some((first, _)) = order.first()
            && self.is_always(first)
            && self.is_seen(first)
        {
            let _ = write!(sql.text, "{} is not null and ", self.field(first)?.sql());
        }
        self.condition(sql, filter)
    }

    fn is_seen(&self, name: &str) -> bool {
        self.traits.get(name).is_none_or(|of| of.seen)
    }

    fn narrow(&self, name: &str) -> Option<&Narrow> {
        self.traits.get(name).filter(|of| of.seen).and_then(|of| of.narrow.as_ref())
    }

    fn is_always(&self, name: &str) -> bool {
        self.traits.get(name).is_some_and(|of| of.always)
    }

    fn field<'a>(&'a self, name: &'a str) -> Result<Field<'a>, ListError> {
        if let Some((name, kind)) = self.columns.iter().find(|(column, _)| column == name) {
            return Ok(if self.is_seen(name) { Field::Column(name, kind) } else { Field::Unseen(kind) });
        }
        match self.properties.iter().any(|property| property == name) {
            true if self.is_seen(PROPERTIES) => Ok(Field::Property(name)),
            true => Ok(Field::Unseen(&Type::TEXT)),
            false => {
                let known = self.columns().chain(self.properties.iter().map(String::as_str)).collect::<Vec<_>>();
                Err(ListError::NoField { name: name.to_owned(), known: known.join(", ") })
            }
        }
    }

    fn condition(&self, sql: &mut Sql, filter: &Filter) -> Result<(), ListError> {
        match filter {
            Filter::All(parts) => self.joined(sql, parts, " and ", "true"),
            Filter::Any(parts) => self.joined(sql, parts, " or ", "false"),
            Filter::Not(part) => {
                // What is unknown is not so.
                sql.text.push_str("not coalesce(");
                self.condition(sql, part)?;
                sql.text.push_str(", false)");
                Ok(())
            }
            Filter::Field(name, condition) => self.test(sql, name, condition),
        }
    }

    fn joined(&self, sql: &mut Sql, parts: &[Filter], by: &str, without: &str) -> Result<(), ListError> {
        if parts.is_empty() {
            sql.text.push_str(without);
            return Ok(());
        }
        for (at, part) in parts.iter().enumerate() {
            sql.text.push_str(if at == 0 { "(" } else { by });
            self.condition(sql, part)?;
        }
        sql.text.push(')');
        Ok(())
    }

    fn test(&self, sql: &mut Sql, name: &str, condition: &Condition) -> Result<(), ListError> {
        let field = self.field(name)?;
        let (column, kind) = (field.sql(), field.type_name());
        if let Some(element) = field.element() {
            return several(sql, name, (&column, &element), condition);
        }
        match condition {
            Condition::Is(Comparison::Equal, value) if value.is_empty() => {
                let _ = write!(sql.text, "coalesce({}, '') = ''", field.shown());
            }
            Condition::Is(Comparison::NotEqual, value) if value.is_empty() => {
                let _ = write!(sql.text, "coalesce({}, '') <> ''", field.shown());
            }
            Condition::Is(Comparison::Like, pattern) => {
                let at = sql.value(Parameter::One(pattern.clone()));
                let _ = write!(sql.text, "{} ilike {at}", field.shown());
            }
            Condition::Is(comparison, value) => {
                let at = sql.value(Parameter::One(value.clone()));
                let narrow = self.narrow(name).filter(|_| *comparison == Comparison::Equal);
                let narrow = narrow.map(|narrow| narrow.condition(&format!("array[{at}]"))).unwrap_or_default();
                let _ = write!(sql.text, "({narrow}{column} {} {at}::{kind})", sign(*comparison));
            }
            Condition::OneOf(values) => {
                let at = sql.value(Parameter::Many(values.clone()));
                let narrow = self.narrow(name).map(|narrow| narrow.condition(&at)).unwrap_or_default();
                let _ = write!(sql.text, "({narrow}{column} = any({at}::{kind}[]))");
            }
            Condition::Between(first, last) => {
                let first = sql.value(Parameter::One(first.clone()));
                let last = sql.value(Parameter::One(last.clone()));
                let _ = write!(sql.text, "{column} between {first}::{kind} and {last}::{kind}");
            }
        }
        Ok(())
    }
}

/// Of a column that holds several values, any must be so.
fn several(sql: &mut Sql, name: &str, (column, element): (&str, &str), condition: &Condition) -> Result<(), ListError> {
    match condition {
        Condition::Is(Comparison::Equal, value) if value.is_empty() => {
            let _ = write!(sql.text, "coalesce(cardinality({column}), 0) = 0");
        }
        Condition::Is(Comparison::NotEqual, value) if value.is_empty() => {
            let _ = write!(sql.text, "cardinality({column}) > 0");
        }
        Condition::Is(Comparison::Equal, value) => {
            let at = sql.value(Parameter::One(value.clone()));
            let _ = write!(sql.text, "{at}::{element} = any({column})");
        }
        Condition::Is(Comparison::NotEqual, value) => {
            let at = sql.value(Parameter::One(value.clone()));
            let _ = write!(sql.text, "not coalesce({at}::{element} = any({column}), false)");
        }
        Condition::Is(Comparison::Like, pattern) => {
            let at = sql.value(Parameter::One(pattern.clone()));
            let _ = write!(sql.text, "exists (select from unnest({column}) e where e::text ilike {at})");
        }
        Condition::OneOf(values) => {
            let at = sql.value(Parameter::Many(values.clone()));
            let _ = write!(sql.text, "{column} && {at}::{element}[]");
        }
        Condition::Is(..) | Condition::Between(..) => {
            return Err(ListError::NoOrder { name: name.to_owned(), kind: "a list" });
        }
    }
    Ok(())
}

impl Field<'_> {
    /// Its value.
    fn sql(&self) -> String {
        match self {
            Self::Column(name, _) => format!("l.{}", quoted(name)),
            Self::Property(name) => format!("(l.properties ->> {})", literal(name)),
            Self::Unseen(kind) => format!("null::{}", type_name(kind)),
        }
    }

    /// Its value as people read it.
    fn shown(&self) -> String {
        let sql = self.sql();
        match self {
            Self::Property(_) => sql,
            Self::Column(_, kind) | Self::Unseen(kind) => match **kind {
                Type::TEXT | Type::VARCHAR => sql,
                Type::INET => format!("host({sql})"),
                Type::TIMESTAMPTZ | Type::TIMESTAMP => format!("to_char({sql}, 'YYYY-MM-DD HH24:MI:SS')"),
                Type::INTERVAL => format!("date_trunc('second', {sql})::text"),
                _ if matches!(kind.kind(), Kind::Array(_)) => format!("array_to_string({sql}, ',')"),
                _ => format!("{sql}::text"),
            },
        }
    }

    fn type_name(&self) -> String {
        match self {
            Self::Column(_, kind) | Self::Unseen(kind) => type_name(kind),
            Self::Property(_) => "text".to_owned(),
        }
    }

    /// What a list consists of.
    fn element(&self) -> Option<String> {
        match self {
            Self::Column(_, kind) | Self::Unseen(kind) => match kind.kind() {
                Kind::Array(element) => Some(type_name(element)),
                _ => None,
            },
            Self::Property(_) => None,
        }
    }
}

impl Sql {
    /// The place of a value in the statement. Values go as text and are cast, so that PostgreSQL reads them.
    fn value(&mut self, value: Parameter) -> String {
        let kind = if matches!(value, Parameter::One(_)) { "text" } else { "text[]" };
        self.values.push(value);
        format!("${}::{kind}", self.values.len())
    }

    async fn run(
        self,
        client: &Client,
    ) -> Result<impl Stream<Item = Result<tokio_postgres::Row, ListError>> + use<>, ListError> {
        let statement: Statement = client.prepare(&self.text).await?;
        let values = self.values.iter().map(|value| match value {
            Parameter::One(value) => value as &(dyn ToSql + Sync),
            Parameter::Many(values) => values,
        });
        Ok(client.query_raw(&statement, values).await?.map_err(ListError::from))
    }
}

fn sign(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Equal => "=",
        Comparison::NotEqual => "is distinct from",
        Comparison::Less => "<",
        Comparison::Greater => ">",
        Comparison::AtMost => "<=",
        Comparison::AtLeast => ">=",
        Comparison::Like => "ilike",
    }
}

fn type_name(kind: &Type) -> String {
    format!("{}.{}", quoted(kind.schema()), quoted(kind.name()))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
