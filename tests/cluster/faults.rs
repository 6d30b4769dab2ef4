//! A proxy in front of an API server: what is broken is broken as told, and the server did its part or did not.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kled_tests::control_plane::ControlPlane;
use kled_tests::fault_proxy::{ApiRequest, Fault, FaultProxy, Verb};
use kled_tests::{kubeconfig, wait};
use kube::Api;
use kube::api::{PostParams, WatchEvent, WatchParams};
use serde_json::json;

/// What an answer of a server on this machine takes at most, also beside a build.
const PATIENCE: Duration = Duration::from_secs(2);
const DONE_DEADLINE: Duration = Duration::from_secs(10);

fn config_map(name: &str) -> Result<ConfigMap> {
    Ok(serde_json::from_value(json!({"metadata": {"name": name}}))?)
}

fn creates_config_map(request: &ApiRequest) -> bool {
    request.verb == Verb::Create && request.resource == "configmaps"
}

async fn start() -> Result<(ControlPlane, FaultProxy, Api<ConfigMap>)> {
    let plane = ControlPlane::start().await?;
    let proxy = FaultProxy::start(plane.kubeconfig()).await?;
    let maps = Api::default_namespaced(kubeconfig::client_without_retries(proxy.kubeconfig()).await?);
    Ok((plane, proxy, maps))
}

/// What the client of a broken request is told.
fn describe(told: Result<kube::Result<ConfigMap>, tokio::time::error::Elapsed>) -> Result<String> {
    Ok(match told {
        Err(_elapsed) => "hang".to_owned(),
        Ok(Err(kube::Error::Api(status))) => {
            ensure!(status.status.is_some() && !status.reason.is_empty(), "no status object: {status:?}");
            status.code.to_string()
        }
        Ok(Err(_)) => "cut".to_owned(),
        Ok(Ok(_)) => bail!("nothing went wrong"),
    })
}

pub(crate) async fn are_shown() -> Result<()> {
    let (plane, proxy, maps) = start().await?;
    let direct: Api<ConfigMap> = Api::default_namespaced(plane.client());
    for (number, fault) in Fault::ALL.into_iter().enumerate() {
        let name = format!("map-{number}");
        proxy.clear();
        proxy.break_next(creates_config_map, fault);
        let (parameters, map) = (PostParams::default(), config_map(&name)?);
        let told = describe(tokio::time::timeout(PATIENCE, maps.create(&parameters, &map)).await)?;
        let told = if fault.is_after() { format!("{told} after it was done") } else { told };
        ensure!(told == fault.to_string(), "of {fault}, the client was told {told}");
        let requests = proxy.requests();
        ensure!(requests.len() == 1 && requests[0].fault == Some(fault), "{fault}: {requests:?}");
        if fault.is_after() {
            ensure!(direct.get_opt(&name).await?.is_some(), "{fault}: the server did not do it");
        } else {
            ensure!(direct.get_opt(&name).await?.is_none(), "{fault}: the server did it");
            // The rule was for one request.
            maps.create(&PostParams::default(), &config_map(&name)?).await?;
        }
    }
    proxy.clear();
    proxy.break_all(creates_config_map, Fault::FORBIDDEN);
    for _ in 0..2 {
        ensure!(maps.create(&PostParams::default(), &config_map("never")?).await.is_err(), "it was created");
    }
    Ok(())
}

pub(crate) async fn are_at_their_place() -> Result<()> {
    let (_plane, proxy, maps) = start().await?;
    proxy.break_at(1, Fault::INTERNAL_ERROR);
    let mut failed = Vec::new();
    for _ in 0..3 {
        failed.push(maps.get_opt("absent").await.is_err());
    }
    ensure!(failed == [false, true, false], "failed: {failed:?}");
    let paths: Vec<String> = proxy.requests().iter().map(ToString::to_string).collect();
    ensure!(paths == ["get /api/v1/namespaces/default/configmaps/absent"; 3], "{paths:?}");
    Ok(())
}

pub(crate) async fn tell_when_to_try_again() -> Result<()> {
    let (_plane, proxy, _) = start().await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(kubeconfig::client(proxy.kubeconfig()).await?);
    proxy.break_at(0, Fault::TOO_MANY_REQUESTS);
    let start = Instant::now();
    maps.create(&PostParams::default(), &config_map("map")?).await?;
    ensure!(start.elapsed() >= Duration::from_secs(1), "the client tried again after {:?}", start.elapsed());
    ensure!(proxy.requests().len() == 2, "{:?}", proxy.requests());
    Ok(())
}

pub(crate) async fn cut_watches() -> Result<()> {
    let (plane, proxy, maps) = start().await?;
    let mut changes = maps.watch(&WatchParams::default(), "0").await?.boxed();
    let direct: Api<ConfigMap> = Api::default_namespaced(plane.client());
    direct.create(&PostParams::default(), &config_map("seen")?).await?;
    let added = async {
        while let Some(change) = changes.try_next().await? {
            if matches!(change, WatchEvent::Added(map) if map.metadata.name.as_deref() == Some("seen")) {
                return Ok(());
            }
        }
        bail!("the watch ended");
    };
    tokio::time::timeout(DONE_DEADLINE, added).await.context("the change was not told")??;
    proxy.cut_open();
    let end = tokio::time::timeout(DONE_DEADLINE, changes.try_next()).await.context("it was not cut")?;
    ensure!(!matches!(end, Ok(Some(_))), "the watch went on: {end:?}");
    // New connections are taken again.
    wait::until(DONE_DEADLINE, "the proxy", async || Ok(maps.get("seen").await?)).await?;
    Ok(())
}
