package config

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// schema is what this test reads of the JSON Schema.
type schema struct {
	Properties           map[string]schema `json:"properties"`
	Words                []any             `json:"enum"`
	AdditionalProperties any               `json:"additionalProperties"`
	AnyOf                []schema          `json:"anyOf"`
	Description          string            `json:"description"`
	Defs                 map[string]schema `json:"$defs"`
	Items                *schema           `json:"items"`
}

func readSchema(t *testing.T) schema {
	t.Helper()
	data, err := os.ReadFile(filepath.FromSlash("../../docs/ringmaster.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// The schema and the loader know the same keys, and the schema forbids others.
func TestSchemaKnowsTheSameKeys(t *testing.T) {
	s := readSchema(t)
	pool := s.Defs["pool"]
	for _, tt := range []struct {
		name   string
		schema schema
		keys   []string
	}{
		{"the file", s, slices.Sorted(maps.Keys(fileFields))},
		{"clients", s.Properties["clients"], slices.Sorted(maps.Keys(clientFields))},
		{"sessions", s.Properties["sessions"], slices.Sorted(maps.Keys(sessionsFields))},
		{"auth", s.Properties["auth"], slices.Sorted(maps.Keys(authFields))},
		{"a role", s.Defs["role"], slices.Sorted(maps.Keys(roleFields))},
		{"a rule", s.Defs["rule"], slices.Sorted(maps.Keys(ruleFields))},
		{"a token", s.Defs["token"], slices.Sorted(maps.Keys(tokenFields))},
		{"arenas", s.Properties["arenas"], slices.Sorted(maps.Keys(arenaFields))},
		{"log", s.Properties["log"], slices.Sorted(maps.Keys(logFields))},
		{"tracing", s.Properties["tracing"], slices.Sorted(maps.Keys(tracingFields))},
		{"a pool", pool, slices.Sorted(maps.Keys(poolFields))},
		{"limits", pool.Properties["limits"], slices.Sorted(maps.Keys(limitFields))},
		{"rlimits", pool.Properties["rlimits"], slices.Sorted(maps.Keys(rlimitFields))},
		{"an action", s.Defs["action"], slices.Sorted(maps.Keys(actionFields))},
		{"a pipeline", s.Defs["pipeline"], slices.Sorted(maps.Keys(pipelineFields))},
		{"a step", s.Defs["step"], slices.Sorted(maps.Keys(stepFields))},
		{"resilience", s.Defs["resilience"], slices.Sorted(maps.Keys(resilienceFields))},
		{"retry", s.Defs["retry"], slices.Sorted(maps.Keys(retryFields))},
		{"breaker", s.Defs["breaker"], slices.Sorted(maps.Keys(breakerFields))},
		{"hedge", s.Defs["hedge"], slices.Sorted(maps.Keys(hedgeFields))},
		{"fallback", s.Defs["fallback"], slices.Sorted(maps.Keys(fallbackFields))},
		{"cache", s.Properties["cache"], slices.Sorted(maps.Keys(cacheFields))},
		{"prefetch", s.Properties["prefetch"], slices.Sorted(maps.Keys(prefetchFields))},
		{"an action's cache", s.Defs["action"].Properties["cache"], slices.Sorted(maps.Keys(cachedFields))},
		{"what follows", *s.Defs["action"].Properties["then"].Items, slices.Sorted(maps.Keys(followFields))},
		{"a pool's session", pool.Properties["session"], slices.Sorted(maps.Keys(sessionFields))},
		{"batch", s.Defs["action"].Properties["batch"], slices.Sorted(maps.Keys(batchFields))},
	} {
		if got := slices.Sorted(maps.Keys(tt.schema.Properties)); !slices.Equal(got, tt.keys) {
			t.Errorf("%s: the schema knows\n%q, the loader\n%q", tt.name, got, tt.keys)
		}
		if tt.schema.AdditionalProperties != false {
			t.Errorf("%s: the schema lets any key pass", tt.name)
		}
		for key, p := range tt.schema.Properties {
			if p.Description == "" {
				t.Errorf("%s: %s has no description", tt.name, key)
			}
		}
	}
}

// words are the texts that a value may be.
func (s schema) words() (list []string) {
	for _, w := range s.Words {
		if text, ok := w.(string); ok {
			list = append(list, text)
		}
	}
	return list
}

// Every word that the schema allows loads.
func TestSchemaWordsLoad(t *testing.T) {
	s := readSchema(t)
	pool := s.Defs["pool"].Properties
	words := map[string][]string{
		"socket_mode: %\npools: {a: {builtin: echo}}":                                                  s.Properties["socket_mode"].words(),
		"log: {level: %}\npools: {a: {builtin: echo}}":                                                 s.Properties["log"].Properties["level"].words(),
		"log: {format: %}\npools: {a: {builtin: echo}}":                                                s.Properties["log"].Properties["format"].words(),
		"prefetch: {learn: %}\npools: {a: {builtin: echo}}":                                            s.Properties["prefetch"].Properties["learn"].words(),
		"pools: {a: {builtin: echo, actions: {echo: {cache: {ttl: 1m, shared: %}}}}}":                  s.Defs["action"].Properties["cache"].Properties["shared"].words(),
		"pools: {a: {builtin: echo, devices: %}}":                                                      pool["devices"].AnyOf[0].words(),
		"pools: {a: {builtin: echo, workers: 1, weights: [1], balance: %}}":                            pool["balance"].AnyOf[0].words(),
		"sessions: {on_conflict: %}\npools: {a: {builtin: echo}}":                                      s.Properties["sessions"].Properties["on_conflict"].AnyOf[0].words(),
		"sessions: {on_store_failure: %}\npools: {a: {builtin: echo}}":                                 s.Properties["sessions"].Properties["on_store_failure"].AnyOf[0].words(),
		"pools: {a: {builtin: echo}}\npipelines: {p: {steps: {a: {pool: a, action: x, on_error: %}}}}": s.Defs["step"].Properties["on_error"].AnyOf[0].words()[:2],
	}
	for text, list := range words {
		if len(list) == 0 {
			t.Errorf("no words for %s", text)
		}
		for _, w := range list {
			yaml := strings.Replace(text, "%", w, 1)
			if _, err := Parse("f", []byte(yaml), environment); err != nil {
				t.Errorf("%s: %v", yaml, err)
			}
		}
	}
}

// The files that ship load; the commands in them need not exist here.
func TestShippedFilesLoad(t *testing.T) {
	for _, path := range []string{"../../examples/quickstart.yaml", "../../examples/pipeline/ringmaster.yaml", "../../examples/pipeline/builtin.yaml"} {
		if _, err := Load(filepath.FromSlash(path)); err != nil {
			t.Error(err)
		}
	}
}
