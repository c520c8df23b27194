package ipc

// Fork returns a copy of the request for somebody who answers it not for its requester alone, and perhaps for longer than that one waits. What the replies hold of the client's memory on their way here is charged to the same
// client, apart from what the request itself holds, until end is called. What the request refers to must stay as it is for as long as the copy is used.
func (r *Request) Fork() (fork *Request, end func()) {
	f := *r
	f.ID, f.Held, f.Batch = 0, false, 0
	f.charge = r.charge.Sibling()
	return &f, f.charge.End
}

// Hand charges the request's client for a reply of size bytes that it is handed, as a [Call] does for one that comes from a worker, and no longer for one of before bytes that it was handed earlier. The request's end gives
// back what is left. An error means that there is no room, and nothing is charged for either.
func (r *Request) Hand(size, before int64) *Error {
	r.charge.Remove(before)
	if r.charge.Add(size) {
		return nil
	}
	e := Errorf(ResourceExhausted, "memory_full", "there is no room for a reply of %d bytes: this client's requests and replies hold its share of the server's memory; have fewer open at a time, or raise `memory`", size)
	e.RetryAfter = fullPause
	return e
}
