//! The three writes as requests, so that each can say until when it may be sent.

use http::Request;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource as _;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::{Request as Build, request};

use crate::model::SliceKey;
use crate::plan::Delete;

type Built = Result<Request<Vec<u8>>, request::Error>;

/// POST, which fails if the name is taken.
pub(super) fn create(slice: &EndpointSlice) -> Built {
    let body = serde_json::to_vec(slice).map_err(request::Error::SerializeBody)?;
    slices(&SliceKey::of(&slice.metadata)).create(&PostParams::default(), body)
}

/// PUT, with the resourceVersion and UID of what was seen.
pub(super) fn update(slice: &EndpointSlice) -> Built {
    let body = serde_json::to_vec(slice).map_err(request::Error::SerializeBody)?;
    let key = SliceKey::of(&slice.metadata);
    slices(&key).replace(key.name(), &PostParams::default(), body)
}

/// DELETE, with resourceVersion and UID as preconditions.
pub(super) fn delete(delete: &Delete) -> Built {
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(delete.uid.clone()),
            resource_version: Some(delete.resource_version.clone()),
        }),
        ..DeleteParams::default()
    };
    slices(&delete.key).delete(delete.key.name(), &params)
}

fn slices(key: &SliceKey) -> Build {
    Build::new(EndpointSlice::url_path(&(), Some(key.namespace())))
}
