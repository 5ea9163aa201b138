// A plugin of typedoc: members that a class inherits from another exported class are documented there only.
import { Converter } from "typedoc";

export function load(app) {
  app.converter.on(Converter.EVENT_RESOLVE_END, ({ project }) => {
    for (const reflection of Object.values(project.reflections)) {
      if (reflection.inheritedFrom?.reflection || ["[species]", "[custom]"].includes(reflection.name))
        project.removeReflection(reflection);
    }
  });
}
