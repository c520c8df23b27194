// Package drive is `ringmaster bench`: it loads a running server and tells rate, latency and what a request costs in processor time, in the client, the supervisor and the workers apart.
//
//	Run ─▶ choose pool and action (status) ─▶ one request, which must succeed ─▶ for each size and each number outstanding: load.Run ─▶ Row
//
// The processes whose time is counted are those that the server's status names. They are looked for in this machine's /proc, and believed only if the workers are the server's children there: in another PID namespace
// the same numbers are somebody else's. What cannot be told is left out and said, never shown as nothing.
//
// Nothing is changed at the server; its connections end with Run.
//
// Read in this order: run.go, target.go, lot.go and ways.go (how payloads travel), cost_linux.go, print.go, chart.go.
package drive
