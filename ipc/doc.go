// Package ipc carries messages between processes: over a shared-memory ring pair to a worker, over a Unix socket to an app. One codec
// serves both, and both ends of each.
//
//	Caller ──request──▶ Transport ──▶ Serve ──▶ Handler
//	       ◀──reply────           ◀──        ◀── Responder
//	       ──cancel, credit──▶
//
// The protocol is docs/protocol.md. Read in this order: message.go (what is said), scan.go (what is MessagePack, and safe to hand
// to a decoder), wire.go, encode.go and decode.go (bytes ⇄ messages), transport.go with socket.go, ring.go and line.go (how bytes travel), hello.go (versions),
// caller.go and call.go with launch.go and window.go (the asking side, how it waits for room, and its credit), arena.go with attach.go and lend.go (tensors in shared memory: what may be said of them, and both sides of asking for some), serve.go with admission.go (the answering side, and what it lets in), lead.go and forward.go (on which goroutine a request is answered), burst.go (when peers are woken) and batch.go (several requests in one call), pace.go (how slow a peer may be).
//
// # Who owns what
//
// Transport.Recv hands its bytes over to the reader: decoded messages alias them, nobody else writes them, the garbage collector frees them. A Request or Reply
// given to Send may be reused when Send returns; of [Caller.StartContext], not before it says so.
//
// # What a peer can do to us
//
// Every length in a message is held against the bytes that are there before it is used, and what is not read itself, such as a body, is scanned; so no message can make us allocate more than it carries. A Caller holds at most the credit it
// granted in replies for each open call; Serve holds at most MaxInFlight requests, and, where a client has an account, both hold no more bytes than that has room for. A peer that breaks these rules gets [Error] DATA_LOSS/protocol or, where only one
// request is concerned, INVALID_ARGUMENT for that request. When a transport dies every open call ends with the transport's error, exactly once.
package ipc
