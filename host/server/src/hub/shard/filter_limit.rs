//! How many different filters a principal may have in one plugin. Counts none: the plugin's filters are counted with
//! the plugin.

use super::*;
use crate::{
    hub::{Connection, policy::Admission},
    key::Key,
};
use switchyard_protocol::ErrorCode;

impl Shard {
    /// How many different filters of the plugin the principal has, if its tier limits them.
    pub(super) fn limited_filters(&self, key: &Key) -> Option<usize> {
        key.limits.filters.map(|_| self.policy.filters_held_by(&key.principal))
    }

    /// Why a filter that the policy has admitted is one too many for the tier. `before` is what
    /// [`limited_filters`](Self::limited_filters) returned before that.
    pub(super) fn filter_refusal(
        &self,
        connection: &Connection,
        key: &Key,
        before: Option<usize>,
        admission: &Admission,
    ) -> Option<Refusal> {
        let (max, before) = (key.limits.filters? as usize, before?);
        admission.filter?;
        let held = self.policy.filters_held_by(&key.principal);
        // One that the principal has already adds nothing, even if the tier allows fewer by now.
        if held <= max || held <= before || !connection.budget.refuses_filter(key) {
            return None;
        }
        let message = format!(
            "room '{}': principal '{}' has {before} different filters of this plugin, tier '{}' allows {max}; leave \
             rooms, or use equal filters",
            &*admission.room, key.principal, key.tier
        );
        Some(Refusal::new(ErrorCode::RoomLimit, message))
    }
}
