//! What selects rows of a list: conditions on fields, joined by and, or and not. How people write it is for `admin`, how
//! the database is asked for `db`.

/// Which rows are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Those that all parts mean; without parts, every row.
    All(Vec<Filter>),
    /// Those that any part means.
    Any(Vec<Filter>),
    /// The others.
    Not(Box<Filter>),
    /// Those whose field is so.
    Field(String, Condition),
}

/// What a field must be like. Values are as they were written; their type is that of the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Compared with one value. Equal to nothing means that the field is empty.
    Is(Comparison, String),
    /// Equal to one of these.
    OneOf(Vec<String>),
    /// Between these, both included.
    Between(String, String),
}

/// How a field is compared with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`, also `<>`
    NotEqual,
    /// `<`
    Less,
    /// `>`
    Greater,
    /// `<=`
    AtMost,
    /// `>=`
    AtLeast,
    /// `~`: a pattern in which `%` stands for anything and `_` for one character, whatever the case of letters.
    Like,
}

impl Filter {
    /// The fields that it asks for, in its order.
    #[must_use]
    pub fn fields(&self) -> Vec<&str> {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::fields).collect(),
            Self::Not(part) => part.fields(),
            Self::Field(name, _) => vec![name],
        }
    }

    /// Whether every row is meant, because nothing was said.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::All(parts) if parts.iter().all(Self::is_everything))
    }
}
