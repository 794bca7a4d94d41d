//! Rules about time and order, tested with the tasks of the operator against an in-memory API server. Under paused
//! time, half an hour takes no real time, and a pause of 250 ms is exactly 250 ms on any machine.

mod check;
mod conditions;
mod consent;
mod contests;
mod doubt;
mod events;
mod fair;
mod harness;
mod leftovers;
mod log;
mod metrics;
mod names;
mod nodes;
mod order;
mod outage;
mod overload;
mod parked;
mod refused;
mod rewound;
mod stale;
mod views;
