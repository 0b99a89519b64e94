//! The parameters of a connection, as the node sent them with `x_start`: from the client, the properties of OSF, image,
//! user and VM, and the authentication. Of several of one name the last wins. What they mean is known elsewhere.

use serde::{Deserialize, Serialize};

use crate::vma::protocol::Pairs;

/// Connection parameters, each name once, in the order in which the names first came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Parameters(Pairs);

impl Parameters {
    /// Takes what was received.
    pub fn new(received: Pairs) -> Self {
        let mut unique = Pairs::with_capacity(received.len());
        for (name, value) in received {
            match unique.iter_mut().find(|(known, _)| *known == name) {
                Some(pair) => pair.1 = value,
                None => unique.push((name, value)),
            }
        }
        Self(unique)
    }

    /// The value of a parameter; empty counts as not sent.
    pub fn get(&self, name: &str) -> Option<&str> {
        let pair = self.0.iter().find(|(known, value)| known == name && !value.is_empty());
        pair.map(|(_, value)| value.as_str())
    }

    /// All of them.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_value_wins_and_an_empty_one_counts_as_not_sent() {
        let sent = [("a", "1"), ("b", ""), ("a", "2")];
        let parameters = Parameters::new(sent.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec());
        assert_eq!((parameters.get("a"), parameters.get("b"), parameters.get("c")), (Some("2"), None, None));
        assert_eq!(parameters.pairs().len(), 2);
    }
}
