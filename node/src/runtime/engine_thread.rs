//! The engine's thread: events in, turns out, in the order that keeps the protocol safe.

use super::{
    event::{Event, Events},
    ledger::Node,
    safety::{or_stop, stop_for_safety},
    vitals::Vitals,
};
use crate::{storage::Storage, sync::unix_ms, transport::Transport};
use bytes::Bytes;
use cretoai_consensus::{
    Message,
    engine::{Engine, Input, Now, Recipient, Turn, Violation, ViolationKind},
};
use cretoai_types::encode;
use std::{
    io,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// The most events that one turn takes in: more would only delay its votes.
const MAX_EVENTS: usize = 512;

/// And the longest that it takes them in, however much there is to verify.
const MAX_INTAKE: Duration = Duration::from_millis(10);

/// The longest that the thread waits for an event.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

pub(super) struct EngineThread {
    engine: Engine,
    events: Arc<Events>,
    storage: Arc<Storage>,
    transport: Arc<Transport>,
    node: Arc<Node>,
    vitals: Arc<Vitals>,
    began: Instant,
    #[cfg(feature = "byzantine")]
    attack: Option<Arc<crate::byzantine::Attack>>,
}

impl EngineThread {
    pub(super) fn new(
        engine: Engine,
        events: Arc<Events>,
        storage: Arc<Storage>,
        transport: Arc<Transport>,
        node: Arc<Node>,
        vitals: Arc<Vitals>,
    ) -> Self {
        Self {
            engine,
            events,
            storage,
            transport,
            node,
            vitals,
            began: Instant::now(),
            #[cfg(feature = "byzantine")]
            attack: None,
        }
    }

    /// Makes what leaves this node an attack.
    #[cfg(feature = "byzantine")]
    pub(super) fn attacking(self, attack: Option<Arc<crate::byzantine::Attack>>) -> Self {
        Self { attack, ..self }
    }

    pub(super) fn spawn(self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("creto-engine".into()).spawn(move || {
            or_stop("creto-engine", || self.run());
        })
    }

    fn now(&self) -> Now {
        Now { at: self.began.elapsed(), wall_ms: unix_ms() }
    }

    fn run(mut self) {
        let mut wake = Duration::ZERO;
        loop {
            // A thread that waits is alive, and shows it.
            self.vitals.turned();
            let wait = wake.saturating_sub(self.began.elapsed()).min(SIGN_OF_LIFE);
            let first = self.events.wait(wait);
            let turn_began = Instant::now();
            let now = self.now();
            let mut taken = 0;
            let mut stopping = false;
            let mut next = first;
            while let Some(event) = next {
                stopping |= !self.take_in(now, event);
                taken += 1;
                let more = taken < MAX_EVENTS && turn_began.elapsed() < MAX_INTAKE;
                next = if more { self.events.take() } else { None };
            }
            let turn = self.engine.end_turn(self.now());
            wake = turn.wake;
            self.carry_out(&turn);
            if taken > 0 {
                self.node.took(turn_began.elapsed(), self.events.len());
            }
            if stopping {
                return self.events.close();
            }
        }
    }

    /// Gives an event to the engine. False when the node is to stop.
    fn take_in(&mut self, now: Now, event: Event) -> bool {
        let input = match event {
            Event::Message { from, message, _budget } => {
                if let Message::Status(status) = &message {
                    self.node.heard(from, status);
                }
                Input::Message { from, message }
            }
            Event::Connected(peer) => Input::Connected(peer),
            Event::RoundTrip(peer, time) => Input::RoundTrip { peer, time },
            Event::Submit(payload) => Input::Submit(payload),
            Event::Reconfigure(order) => Input::Reconfigure(order),
            Event::Resign => Input::Resign,
            Event::Stop => return false,
        };
        self.engine.handle(now, input);
        true
    }

    /// Writes first, then sends and answers.
    fn carry_out(&self, turn: &Turn) {
        if let Some(reason) = &turn.diverged {
            stop_for_safety(reason);
        }
        if !turn.writes.is_empty() {
            self.vitals.writes(true);
            if let Err(error) = self.storage.write(turn) {
                stop_for_safety(&error.to_string());
            }
            self.vitals.writes(false);
        }
        for (to, message) in &turn.sends {
            #[cfg(feature = "byzantine")]
            if let Some(attack) = &self.attack {
                self.send_attack(attack, *to, message);
                continue;
            }
            let class = message.urgency().into();
            let frame = Bytes::from(encode(message));
            match to {
                Recipient::All => self.transport.broadcast(class, frame),
                Recipient::One(peer) => self.transport.send(*peer, class, frame),
            }
        }
        // Only now: what ends the old epoch was for its members.
        if let Some(validators) = &turn.opened {
            tracing::info!(
                epoch = validators.epoch.0,
                members = validators.members.len(),
                "an epoch begins"
            );
            self.transport.set_members(&validators.members);
            self.node.opened(&validators.members);
        }
        for Violation { node, kind } in &turn.violations {
            if *kind == ViolationKind::InvalidSignature && self.transport.strike(*node) {
                self.events.forget(*node);
            }
            let kind = match kind {
                ViolationKind::Equivocation => "equivocation",
                ViolationKind::InvalidSignature => "invalid_signature",
                ViolationKind::Malformed => "malformed",
            };
            self.node.count_violation(*node, kind);
        }
        self.node.turned(&self.engine, turn);
    }

    #[cfg(feature = "byzantine")]
    fn send_attack(&self, attack: &crate::byzantine::Attack, to: Recipient, message: &Message) {
        let validators = self.engine.validators();
        let recipients = match to {
            Recipient::All => validators.ids().collect(),
            Recipient::One(peer) => vec![peer],
        };
        let own = self.node.own_id();
        for peer in recipients.into_iter().filter(|peer| Some(*peer) != own) {
            for message in attack.tamper(validators, peer, message) {
                self.transport.send(peer, message.urgency().into(), Bytes::from(encode(&message)));
            }
        }
    }
}
