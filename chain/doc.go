// Package chain is what happens to a request between the protocol that brought it and the supervisor that finds it a worker.
//
// It is a stack of [Handler], each made by a [Link] of the one behind it. A link looks at the request, may answer it itself, may change it, passes it on, and may watch the replies as they come back; it knows
// neither the protocol in front nor the worker behind. Each link is a package of its own below this one, with its part of the configuration; the command puts them together (cmd/ringmaster/chain.go):
//
//	gateway ▶ … links, in the order a request meets them … ▶ supervisor.Call
//
// A request's headers carry what links are told by clients, and a reply's what links tell them; in HTTP both are named X-Ringmaster-…. docs/protocols.md lists them.
package chain
