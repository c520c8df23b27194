package ipc

// The names by which a supervisor and the worker it starts know each other: docs/protocol.md, section 1.
const (
	CookieVariable      = "RINGMASTER_COOKIE"
	Cookie              = "5f1d0c52b6e94be0a1f9-ringmaster-worker"
	VersionsVariable    = "PLUGIN_PROTOCOL_VERSIONS" // comma-separated
	PoolVariable        = "RINGMASTER_POOL"
	SlotVariable        = "RINGMASTER_SLOT"
	ConcurrencyVariable = "RINGMASTER_CONCURRENCY"
	MaxMessageVariable  = "RINGMASTER_MAX_MESSAGE"
	DevicesVariable     = "CUDA_VISIBLE_DEVICES"

	SegmentFD  = 3
	LifelineFD = 4
	EventFD    = 5

	ExitProtocol = 70 // status of a worker whose supervisor broke the protocol
)
