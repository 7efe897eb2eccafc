//! The principal: who connects, subscribes or publishes.

/// The owner of the key that a client presented.
#[derive(Debug, Clone, Default)]
pub struct Principal {
    /// The id, which all keys of the principal share.
    pub id: String,
    /// The tier of the key; `default` if the key has none.
    pub tier: String,
    /// The names and values that the operator attached to the key, in the order of the configuration.
    pub tags: Vec<(String, String)>,
}

impl Principal {
    /// The value of the first tag with this name.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find(|(tag, _)| tag == name).map(|(_, value)| value.as_str())
    }
}
