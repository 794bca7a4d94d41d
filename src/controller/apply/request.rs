//! Builds the requests for the three kinds of writes without `kube::Api`, so that each request can carry the deadline
//! by which it must be sent.

use std::borrow::Cow;

use http::Request;
use k8s_openapi::api::discovery::v1::EndpointSlice as Api;
use kube::Resource as _;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::{Request as Build, request};
use serde::Serialize;

use endpoint_copier_core::model::{EndpointSlice, SliceKey};
use endpoint_copier_core::plan::Delete;

type Built = Result<Request<Vec<u8>>, request::Error>;

/// Builds a POST, which fails if the name is taken.
pub(super) fn create(slice: &EndpointSlice) -> Built {
    slices(&slice.key()).create(&PostParams::default(), body(slice)?)
}

/// Builds a PUT with the resourceVersion and UID that were seen.
pub(super) fn update(slice: &EndpointSlice) -> Built {
    let key = slice.key();
    slices(&key).replace(key.name(), &PostParams::default(), body(slice)?)
}

/// Builds a DELETE with resourceVersion and UID as preconditions.
pub(super) fn delete(delete: &Delete) -> Built {
    let seen = as_seen(Some(delete.uid.clone()), Some(delete.resource_version.clone()));
    slices(&delete.key).delete(delete.key.name(), &seen)
}

/// Parameters that delete an object only if it still has this UID and resourceVersion.
pub(in crate::controller) fn as_seen(uid: Option<String>, resource_version: Option<String>) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid,
            resource_version,
        }),
        ..DeleteParams::default()
    }
}

fn body(slice: &EndpointSlice) -> Result<Vec<u8>, request::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed<'a> {
        api_version: Cow<'a, str>,
        kind: Cow<'a, str>,
        #[serde(flatten)]
        slice: &'a EndpointSlice,
    }
    let typed = Typed {
        api_version: Api::api_version(&()),
        kind: Api::kind(&()),
        slice,
    };
    serde_json::to_vec(&typed).map_err(request::Error::SerializeBody)
}

fn slices(key: &SliceKey) -> Build {
    Build::new(Api::url_path(&(), Some(key.namespace())))
}
