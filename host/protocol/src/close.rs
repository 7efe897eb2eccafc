//! Every way in which the server ends a connection: its code, the reason a client reads, and with it whether to
//! come back (44xx: not until something changed; 45xx: backing off; 46xx: at once).

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    BadFrames,
    Unauthorized,
    Forbidden,
    TakenOver,
    Revoked,
    ConnectionLimit,
    Internal,
    Overloaded,
    /// No `connect` came in time.
    ConnectTimeout,
    Silent,
    Slow,
    /// Milliseconds, jittered, that the client should wait before it comes back.
    Draining(u32),
    Protocol,
    NotUtf8,
    FrameTooLarge,
}

impl Close {
    pub fn code(self) -> u16 {
        match self {
            Close::Protocol => 1002,
            Close::NotUtf8 => 1007,
            Close::FrameTooLarge => 1009,
            Close::BadFrames => 4400,
            Close::Unauthorized => 4401,
            Close::Forbidden => 4403,
            Close::TakenOver => 4409,
            Close::Revoked => 4410,
            Close::ConnectionLimit => 4429,
            Close::Internal => 4500,
            Close::Overloaded => 4503,
            Close::ConnectTimeout | Close::Silent => 4504,
            Close::Slow => 4508,
            Close::Draining(_) => 4600,
        }
    }

    pub fn reason(self) -> String {
        match self {
            Close::Draining(delay) => return delay.to_string(),
            Close::Protocol => "not a valid WebSocket frame",
            Close::NotUtf8 => "a text frame is not UTF-8",
            Close::FrameTooLarge => {
                "a frame is larger than server.frame allows, or than 16 KiB before connect"
            }
            Close::BadFrames => "ten bad frames within a minute",
            Close::Unauthorized => "a valid key is needed",
            Close::Forbidden => "not allowed here",
            Close::TakenOver => "the session was resumed by another connection",
            Close::Revoked => "the key was revoked",
            Close::ConnectionLimit => "too many connections of this principal",
            Close::Internal => "an error of the server; resume the session",
            Close::Overloaded => "overloaded; resume the session after a while",
            Close::ConnectTimeout => "no connect came in time; try again after a while",
            Close::Silent => "no sign of life",
            Close::Slow => "too slow to keep up; resume the session",
        }
        .to_owned()
    }

    /// Whether what is waiting for the peer is thrown away rather than sent first.
    pub fn drops_waiting(self) -> bool {
        matches!(self, Close::Slow | Close::Silent | Close::TakenOver)
    }
}
