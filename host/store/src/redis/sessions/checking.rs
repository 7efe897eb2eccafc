//! Whether a connection could resume a session, for a caller that must know before it takes the session. Changes
//! nothing.

use super::RedisSessions;
use crate::{
    ResumeCheck, SessionToken, Unavailable,
    redis::{
        context::Context, scripts::sessions::check_resume, session_id::SessionId, session_key::SessionKey,
    },
};
use std::sync::Arc;

impl RedisSessions {
    /// Whether a connection of this node could resume the session now. With `max_connections`, this includes
    /// whether it would get a connection slot.
    pub(crate) async fn check_resume(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        max_connections: Option<u32>,
    ) -> Result<ResumeCheck, Unavailable> {
        let Context { link, names, node, cluster_clock, connections, .. } = &*self.context;
        let session = SessionKey { principal, id: SessionId::of(&token) };
        let slot = max_connections
            .map(|max_connections| connections.prospective_request(principal, max_connections));
        check_resume(link, names, session, &node.get(), cluster_clock.now(), slot).await
    }
}
