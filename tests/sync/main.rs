//! Rules about time and order, tested with the tasks of the operator against an API server in memory. Under paused
//! time, half an hour takes no time, and a pause of 250 ms is 250 ms on any machine.

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
