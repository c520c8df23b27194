// Package pipeline is the link of the call chain that answers requests to pipelines: named chains of steps, which are called like a pool.
//
// A step asks a pool, or puts an object together (aggregate). What it is given is said by values of the configuration in which strings may refer to the request and to the answers of other steps:
//
//	{pool: smollm2, action: chat, body: {messages: [{role: user, content: "Summarize: $(steps.ocr.body.text)"}]}}
//
// The references make a graph, and its order is the only one: whatever has what it needs runs, so many at a time as the pipeline allows. One step is the output, whose replies are the request's, as they come.
//
//	request ─▶ ocr ──────▶ summary ─┐
//	   │                            ├─▶ out (output) ─▶ replies
//	   └─────▶ classify ────────────┘
//
// Values are passed on as the bytes they came in, so that nothing is decoded that nobody looks into; tensors are passed on as they are. All steps have the request's client, trace, headers and deadline, and pass
// the links behind this one: they are cached, tried again and queued like any request. A step that fails ends the request, and cancels those that run, unless it says what is to take its place.
//
// Who owns what: a run (run.go) is one request; its steps are goroutines of their own, which have ended when the request has. A [plan] (plan.go) is what is known before any request: it is checked and compiled at load, and
// immutable. path.go is the language of references, value.go what is built with them, walk.go how they look into MessagePack. docs/decisions/0016-pipelines.md says why so.
package pipeline
