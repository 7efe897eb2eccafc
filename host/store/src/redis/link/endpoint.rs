//! The connections to one server. How each of them is kept open is in `connection.rs`.

use super::connection::{ClientError, Common, NotConnected, RedisConnection, Role};
use fred::types::config::{Config, ServerConfig};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The connections to a server: one for commands and one for subscriptions. Both close when this is dropped.
pub(super) struct Endpoint {
    pub commands: Arc<RedisConnection>,
    pub subscriber: Arc<RedisConnection>,
    closed: CancellationToken,
}

impl Endpoint {
    /// Starts connecting.
    pub(super) fn open(common: &Arc<Common>, server: &ServerConfig) -> Result<Arc<Self>, ClientError> {
        let closed = common.closed.child_token();
        let config = Config { server: server.clone(), ..common.config.clone() };
        let open = |role| RedisConnection::open(common, config.clone(), role, &closed);
        let (commands, subscriber) = (open(Role::Commands)?, open(Role::Subscriber)?);
        Ok(Arc::new(Self { commands, subscriber, closed }))
    }

    /// Waits until both are connected. The error says why one cannot connect.
    pub(super) async fn opened(&self) -> Result<(), NotConnected> {
        self.commands.opened().await?;
        self.subscriber.opened().await
    }

    pub(super) fn is_connected(&self) -> bool {
        self.commands.is_connected() && self.subscriber.is_connected()
    }

    pub(super) fn connection(&self, role: Role) -> &RedisConnection {
        match role {
            Role::Subscriber => &self.subscriber,
            _ => &self.commands,
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}
