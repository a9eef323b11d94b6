//! Faults for the connections of one scope: an FTP session's control connection, or its data.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::settings::{Action, Counted, Direction, How, Lane, Rule, Scope};
use super::{FaultProxy, RuleHandle};

/// Settings of a proxy that apply to one scope, in addition to those for all connections.
#[derive(Debug, Clone, Copy)]
pub struct Scoped<'a> {
    proxy: &'a FaultProxy,
    scope: Scope,
}

impl<'a> Scoped<'a> {
    pub(super) fn new(proxy: &'a FaultProxy, scope: Scope) -> Self {
        Self { proxy, scope }
    }

    fn lane(self, direction: Direction, change: impl FnOnce(&mut Lane)) -> Self {
        self.proxy.change(|settings| change(&mut settings.lanes[self.scope.index()][direction.index()]));
        self
    }

    /// See `FaultProxy::latency`; it adds to the latency of all connections.
    pub fn latency(self, direction: Direction, latency: Duration) -> Self {
        self.lane(direction, |lane| lane.latency = latency)
    }

    /// Limits all connections of the scope together.
    pub fn rate(self, direction: Direction, bytes_per_second: Option<u64>) -> Self {
        self.lane(direction, |lane| lane.bytes_per_second = bytes_per_second)
    }

    /// Limits each connection of the scope.
    pub fn rate_per_connection(self, direction: Direction, bytes_per_second: Option<u64>) -> Self {
        self.lane(direction, |lane| lane.bytes_per_second_each = bytes_per_second)
    }

    /// See `FaultProxy::black_hole`.
    pub fn black_hole(self, direction: Direction, on: bool) -> Self {
        self.lane(direction, |lane| lane.black_hole = on)
    }

    /// What a translator of addresses does with a flow that rested too long: connections that are open carry nothing any
    /// more, ends included, in both directions and for ever; nobody is told. New ones are served.
    pub fn forget(self) -> Self {
        self.proxy.change(|settings| settings.forgotten[self.scope.index()] += 1);
        self
    }

    /// `action` once `bytes` have passed in `direction`, counted over the connections of the scope.
    pub fn rule(self, direction: Direction, counted: Counted, bytes: u64, action: Action) -> RuleHandle {
        let shared = &self.proxy.shared;
        let id = shared.next_rule.fetch_add(1, Ordering::SeqCst);
        self.proxy.change(|settings| settings.rules.push(Rule { id, direction, scope: self.scope, counted, bytes, action }));
        RuleHandle { id, shared: shared.clone() }
    }

    /// See `FaultProxy::cut_after`.
    pub fn cut_after(self, direction: Direction, bytes: u64, how: How) -> RuleHandle {
        self.rule(direction, Counted::PerConnection, bytes, Action::Cut(how))
    }

    pub fn stall_after(self, direction: Direction, bytes: u64) -> RuleHandle {
        self.rule(direction, Counted::PerConnection, bytes, Action::Stall)
    }

    /// See `FaultProxy::corrupt`.
    pub fn corrupt(self, direction: Direction, offset: u64) -> RuleHandle {
        self.rule(direction, Counted::PerConnection, offset, Action::Corrupt(0xff))
    }

    /// Ends the connections of the scope that are open now.
    pub fn cut_now(self, how: How) -> Self {
        self.proxy.change(|settings| {
            settings.cuts[self.scope.index()] += 1;
            settings.last_cut[self.scope.index()] = Some(how);
        });
        self
    }

    /// See `FaultProxy::refuse`. Ports that a rewriter opens are served all the same.
    pub async fn refuse(self, on: bool) -> Self {
        self.proxy.change(|settings| settings.refuse[self.scope.index()] = on);
        let refused = {
            let settings = self.proxy.shared.settings.borrow();
            [false, true].map(|passive| settings.refuses(passive))
        };
        let all = [1, self.proxy.ports.len() - 1];
        let wanted = [0, 1].map(|kind| if refused[kind] { 0 } else { all[kind] });
        // The sender lives as long as we do.
        let _ = self.proxy.shared.listening.subscribe().wait_for(|open| *open == wanted).await;
        self
    }

    /// Bytes delivered in this direction over all connections of the scope.
    pub fn bytes(self, direction: Direction) -> u64 {
        self.proxy.shared.totals[direction.index()].lock().expect("no panic while locked")[self.scope.index()]
    }
}
