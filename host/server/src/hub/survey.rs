//! Lists members of rooms and judges them without effect, so that operators see what a change of plugins would do.
//! Changes nothing.

use super::{
    CompiledVersion, Connection, Hub, Policy, Shard, Ungoverned, refusals::renamed, room_usage::RoomUsage,
};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_plugin::{Counts, Governor};
use switchyard_protocol::{Refusal, room::RoomName};

/// Maximum number of members of each shard that are listed.
const MAX_SURVEYED_MEMBERS: usize = 10_000;
/// How long the members of one plugin are judged.
const JUDGING_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether a survey is about a room.
pub(crate) type RoomSelector = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A member of a room.
pub(crate) struct SurveyedMember {
    pub room: RoomName,
    pub connection: Arc<Connection>,
    /// As the client wrote it.
    pub filter_text: Option<Arc<str>>,
}

/// The members of the rooms that a survey is about.
#[derive(Default)]
pub(crate) struct Survey {
    pub members: Vec<SurveyedMember>,
    /// Whether these are all.
    pub is_complete: bool,
}

/// What would decide about the members of rooms.
pub(crate) enum SurveyJudge {
    /// A plugin. It should be compiled for this purpose, so that nothing that it does counts as the active
    /// version's.
    Version(CompiledVersion),
    /// The rooms would have no plugin.
    Ungoverned(Ungoverned),
}

impl Hub {
    /// Lists the members of rooms on this node.
    pub(crate) async fn survey(&self, selector: RoomSelector) -> Survey {
        let mut all = Survey { is_complete: true, ..Survey::default() };
        for reply in self.router.survey(&selector) {
            // A shard that has just ended has no members any more.
            let Ok(part) = reply.await else { continue };
            all.members.extend(part.members);
            all.is_complete &= part.is_complete;
        }
        all
    }
}

impl Shard {
    /// Lists the members of rooms.
    pub(super) fn survey(&self, selector: &RoomSelector) -> Survey {
        let rooms = self.rooms.iter().filter(|(name, _)| selector(name));
        let members = rooms.filter_map(|(_, entry)| entry.open()).flat_map(|room| {
            room.connections().map(|(connection, filter_text)| SurveyedMember {
                room: room.name().clone(),
                connection: connection.clone(),
                filter_text: filter_text.cloned(),
            })
        });
        let members: Vec<_> = members.take(MAX_SURVEYED_MEMBERS + 1).collect();
        let is_complete = members.len() <= MAX_SURVEYED_MEMBERS;
        Survey { members: members.into_iter().take(MAX_SURVEYED_MEMBERS).collect(), is_complete }
    }
}

impl SurveyJudge {
    /// Decides about each member, without effect. `None` for members that were not judged in time. Blocks.
    pub(crate) fn judge(self, members: &[SurveyedMember]) -> Vec<Option<Result<(), Refusal>>> {
        let mut policy = match self {
            Self::Version(CompiledVersion { plugin, .. }) => {
                Policy::Governed(Box::new(Governor::for_candidate(plugin)))
            }
            Self::Ungoverned(ungoverned) => Policy::Ungoverned(ungoverned),
        };
        let (mut usage, mut admitted) = (RoomUsage::default(), HashMap::<RoomName, u32>::new());
        let until = Instant::now() + JUDGING_TIMEOUT;
        let judge = |member: &SurveyedMember| {
            (Instant::now() < until).then(|| {
                let SurveyedMember { room, connection, filter_text } = member;
                let (principal, key) = (&connection.principal, connection.key.load_full());
                let in_room = admitted.get(room).copied().unwrap_or_default();
                let (of_connection, of_principal) = usage.other_rooms(room, connection.id, principal);
                let counts = Counts { of_connection, of_principal, in_room };
                let canonical = policy.resolve(principal, room, |_| true)?;
                if canonical != *room {
                    return Err(renamed(room, &canonical));
                }
                policy.admit(canonical, &key.seen_by_plugins, filter_text.as_deref(), counts)?;
                usage.add(room, connection.id, principal);
                *admitted.entry(room.clone()).or_default() += 1;
                Ok(())
            })
        };
        members.iter().map(judge).collect()
    }
}
