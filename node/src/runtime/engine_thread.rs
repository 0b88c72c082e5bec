//! The engine's thread: events in, turns out, in the order that keeps the protocol safe.

use super::{ledger::Node, stop_for_safety};
use crate::{
    storage::Storage,
    transport::{Budget, Transport},
};
use bytes::Bytes;
use cretoai_consensus::{
    Message,
    engine::{Engine, Input, Now, Recipient, Turn, Violation, ViolationKind},
};
use cretoai_types::{NodeId, Payload, SignedReconfig, encode};
use std::{
    io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The most events that one turn takes in: more would only delay its votes.
const MAX_EVENTS: usize = 512;

/// What the engine's thread waits for.
pub(super) enum Event {
    Message {
        from: NodeId,
        message: Message,
        _budget: Budget,
    },
    Connected(NodeId),
    Submit(Payload),
    Reconfigure(Box<SignedReconfig>),
    /// Another node should lead.
    Resign,
    Stop,
}

pub(super) struct EngineThread {
    engine: Engine,
    events: mpsc::Receiver<Event>,
    storage: Arc<Storage>,
    transport: Arc<Transport>,
    node: Arc<Node>,
    began: Instant,
    #[cfg(feature = "byzantine")]
    attack: Option<Arc<crate::byzantine::Attack>>,
}

impl EngineThread {
    pub(super) fn new(
        engine: Engine,
        events: mpsc::Receiver<Event>,
        storage: Arc<Storage>,
        transport: Arc<Transport>,
        node: Arc<Node>,
    ) -> Self {
        Self {
            engine,
            events,
            storage,
            transport,
            node,
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
            // A panic in the engine must not leave a node that looks alive.
            let run = std::panic::AssertUnwindSafe(|| self.run());
            if std::panic::catch_unwind(run).is_err() {
                stop_for_safety("the engine panicked");
            }
        })
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            at: self.began.elapsed(),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn run(mut self) {
        let mut wake = Duration::ZERO;
        loop {
            let wait = wake.saturating_sub(self.began.elapsed());
            let first = match self.events.recv_timeout(wait) {
                Ok(event) => Some(event),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            let now = self.now();
            let mut taken = 0;
            let mut stopping = false;
            let mut next = first;
            while let Some(event) = next {
                stopping |= !self.take_in(now, event);
                taken += 1;
                next = if taken < MAX_EVENTS { self.events.try_recv().ok() } else { None };
            }
            let turn = self.engine.end_turn(self.now());
            wake = turn.wake;
            self.carry_out(&turn);
            if stopping {
                return;
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
        if !turn.writes.is_empty()
            && let Err(error) = self.storage.write(turn)
        {
            stop_for_safety(&error.to_string());
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
        }
        for Violation { node, kind } in &turn.violations {
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
