//! The drill: a canary's life on this host, searched at every step.
//!
//! | what | where |
//! |---|---|
//! | what a canary signs, so that its nonces are known | [`numbered`] |
//! | what there is to search, and what of it nobody can read | [`places`] |
//! | the other processes, under a deadline | [`child`] |
//! | the steps | [`life`] |
//! | what they came to, without I/O | [`report`], [`page`] |
//!
//! This process holds every form of the canary, and a canary is no secret. It is the only one that
//! is never searched.

pub mod child;
pub mod life;
pub mod numbered;
pub mod page;
pub mod places;
pub mod report;
