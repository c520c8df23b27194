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
	Enum                 []string          `json:"enum"`
	AdditionalProperties any               `json:"additionalProperties"`
	AnyOf                []schema          `json:"anyOf"`
	Description          string            `json:"description"`
	Defs                 map[string]schema `json:"$defs"`
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

// Every word that the schema allows loads.
func TestSchemaWordsLoad(t *testing.T) {
	s := readSchema(t)
	pool := s.Defs["pool"].Properties
	words := map[string][]string{
		"socket_mode: %\npools: {a: {builtin: echo}}":                       s.Properties["socket_mode"].Enum,
		"log: {level: %}\npools: {a: {builtin: echo}}":                      s.Properties["log"].Properties["level"].Enum,
		"log: {format: %}\npools: {a: {builtin: echo}}":                     s.Properties["log"].Properties["format"].Enum,
		"pools: {a: {builtin: echo, devices: %}}":                           pool["devices"].AnyOf[0].Enum,
		"pools: {a: {builtin: echo, workers: 1, weights: [1], balance: %}}": pool["balance"].AnyOf[0].Enum,
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
	for _, path := range []string{"../../examples/quickstart.yaml"} {
		if _, err := Load(filepath.FromSlash(path)); err != nil {
			t.Error(err)
		}
	}
}
