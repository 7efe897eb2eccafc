//! The wire protocol, in detail.

mod connect;
mod filters;
mod frames;
mod live;
mod publishing;
mod rooms;
mod sessions;
