//! protobuf as tonic's codec, with buffers for short messages: a controller has a stream of each sidecar.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// What a stream keeps for its next message; longer ones get more for as long as they need it.
const KEPT: usize = 512;
/// What HTTP/2 is handed at a time.
const HANDED: usize = 16 * 1024;

/// protobuf, with buffers for short messages.
#[derive(Debug)]
pub struct ShortMessages<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for ShortMessages<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for ShortMessages<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(KEPT, HANDED))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(KEPT, HANDED))
    }
}
