//! Follows the objects of the API server.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use sidegate_core::{event, innermost, printable};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cluster::{Kind, Object};
use super::subscriptions::Subscriptions;
use super::template::SpiffeIdTemplate;
use super::{objects, subscriptions};

/// Objects of one answer of a list: a cluster is never in memory as a whole.
const PAGE: u32 = 500;

/// Follows pods, services and endpoint slices of all namespaces, until dropped. `listed` becomes 3 when all of them are known.
pub async fn watch_cluster(client: Client, template: SpiffeIdTemplate, subscriptions: Arc<Subscriptions>, listed: watch::Sender<usize>) {
    let mut tasks = JoinSet::new();
    let (into, counted) = (subscriptions.clone(), listed.clone());
    let pods = move |pod: &core::Pod| objects::pod(pod, &template).map(Object::Pod);
    tasks.spawn(follow(Api::all(client.clone()), Kind::Pod, pods, into, counted));
    let (into, counted) = (subscriptions.clone(), listed.clone());
    let services = |service: &core::Service| objects::service(service).map(Object::Service);
    tasks.spawn(follow(Api::all(client.clone()), Kind::Service, services, into, counted));
    let slices = |slice: &EndpointSlice| objects::slice(slice).map(Object::Slice);
    tasks.spawn(follow(Api::all(client), Kind::Slice, slices, subscriptions, listed));
    // None of them ends by itself: anyone who waits for this hears of the first that does.
    let _ = tasks.join_next().await;
}

async fn follow<K>(
    api: Api<K>,
    kind: Kind,
    object: impl Fn(&K) -> Option<Object>,
    into: Arc<subscriptions::Subscriptions>,
    listed: watch::Sender<usize>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = std::pin::pin!(watcher(api, Config::default().page_size(PAGE)).default_backoff());
    let (mut seen, mut is_listed, mut failed) = (HashSet::new(), false, false);
    while let Some(event) = events.next().await {
        if event.is_ok() && std::mem::replace(&mut failed, false) {
            tracing::info!(event = event::CLUSTER_FOLLOWED, kind = ?kind, "the API server can be followed again");
        }
        let (current, is_first) = match event {
            Ok(Event::Init) => {
                seen.clear();
                continue;
            }
            Ok(Event::InitDone) => {
                into.retain(kind, &seen);
                seen = HashSet::new();
                if !std::mem::replace(&mut is_listed, true) {
                    tracing::info!(event = event::CLUSTER_FOLLOWED, kind = ?kind, "the API server has listed all objects of this kind");
                    listed.send_modify(|count| *count += 1);
                }
                continue;
            }
            Ok(Event::InitApply(current)) => (current, true),
            Ok(Event::Apply(current)) => (current, false),
            Ok(Event::Delete(gone)) => {
                into.set(kind, &name(&gone), None);
                continue;
            }
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    let why = printable(&innermost(&error));
                    tracing::warn!(event = event::CLUSTER_UNAVAILABLE, kind = ?kind, "the API server can't be followed, what is known stays: {why}");
                }
                continue;
            }
        };
        let name = name(&current);
        into.set(kind, &name, object(&current));
        if is_first {
            seen.insert(name);
        }
    }
}

fn name<K: Resource>(object: &K) -> String {
    let metadata = object.meta();
    format!("{}/{}", metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}
