package supervisor

func hostile(string) error { return nil }

func supervise(string) error { return nil }
